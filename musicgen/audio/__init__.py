"""Audio: sample rates, channels, levels and files, with the reference's parameters."""

from musicgen.audio.channels import convert_audio, convert_audio_channels, to_channels
from musicgen.audio.files import (
    AudioFileInfo,
    audio_info,
    audio_read,
    audio_write,
    f32_pcm,
    i16_pcm,
)
from musicgen.audio.level import normalize_audio, normalize_loudness
from musicgen.audio.notebook import display_audio
from musicgen.audio.resampling import resample, resampled_pieces

__all__ = [
    "AudioFileInfo",
    "audio_info",
    "audio_read",
    "audio_write",
    "convert_audio",
    "convert_audio_channels",
    "display_audio",
    "f32_pcm",
    "i16_pcm",
    "normalize_audio",
    "normalize_loudness",
    "resample",
    "resampled_pieces",
    "to_channels",
]
