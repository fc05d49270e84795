"""Audio files in and out: WAV, FLAC, MP3 and Ogg Vorbis, by libsndfile (no ffmpeg)."""

import io
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import torch
from torch import Tensor

from musicgen.audio.level import normalize_audio, refuse_unknown
from musicgen.config import ArgumentError

if TYPE_CHECKING:
    import numpy as np

Address = str | PathLike[str]

WRITE_SAMPLES = 2**20  # at once: libsndfile's Vorbis encoder takes long clips onto its stack
VORBIS_QUALITY = 0.3  # without a bitrate: ffmpeg's default, which the reference leaves it to
VORBIS_TRIES = 7  # to find the quality that gives a bitrate
KINDS: dict[str, tuple[str, str]] = {  # file ending to libsndfile's container and coding
    "wav": ("WAV", "PCM_16"),
    "flac": ("FLAC", "PCM_24"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "ogg": ("OGG", "VORBIS"),
}


class UnknownFormatError(ValueError, RuntimeError):
    """A file format that can't be written; AudioCraft raises RuntimeError."""


@dataclass(frozen=True)
class AudioFileInfo:
    """What a file says of itself.

    Attributes:
        sample_rate: In Hz.
        duration: In seconds.
        channels: How many it has.
    """

    sample_rate: int
    duration: float
    channels: int


class RareWrite(TypedDict, total=False):
    """Parameters of `audio_write` that are given by name."""

    strategy: str
    peak_clip_headroom_db: float
    rms_headroom_db: float
    loudness_headroom_db: float
    loudness_compressor: bool
    log_clipping: bool
    make_parent_dir: bool
    add_suffix: bool


def audio_info(filepath: Address) -> AudioFileInfo:
    """Rate, duration and channels of a file."""
    import soundfile

    info = soundfile.info(filepath)
    return AudioFileInfo(info.samplerate, info.duration, info.channels)


def audio_read(
    filepath: Address, seek_time: float = 0.0, duration: float = -1.0, pad: bool = False
) -> tuple[Tensor, int]:
    """Reads a file: float32 [C, N] and its sample rate.

    Args:
        filepath: WAV, FLAC, MP3, Ogg or what else libsndfile reads.
        seek_time: Where to begin, in seconds.
        duration: How much to read, in seconds; 0 or less reads to the end.
        pad: Whether silence fills up what the file lacks of `duration`.

    Raises:
        ArgumentError: `seek_time` lies outside of the file.
    """
    import soundfile

    with soundfile.SoundFile(filepath) as file:
        rate_hz = file.samplerate
        first, wanted = int(seek_time * rate_hz), int(duration * rate_hz)
        if not 0 <= first <= file.frames:
            raise ArgumentError(
                f"{filepath}: seek_time={seek_time:g} s lies outside of the file's "
                f"{file.frames / rate_hz:g} s"
            )
        file.seek(first)
        samples = file.read(wanted if duration > 0 else -1, dtype="float32", always_2d=True)
    wav = torch.from_numpy(samples).T.contiguous()  # [C, N]
    if pad and wanted > wav.shape[-1]:
        wav = torch.nn.functional.pad(wav, (0, wanted - wav.shape[-1]))
    return wav, rate_hz


def audio_write(
    stem_name: Address,
    wav: Tensor,
    sample_rate: int,
    format: str = "wav",
    mp3_rate: int = 320,
    ogg_rate: int | None = None,
    normalize: bool = True,
    **rare: Unpack[RareWrite],
) -> Path:
    """Brings a clip to a level (`normalize_audio`) and writes it; the path of the file.

    Names, order and defaults are AudioCraft's; those after `normalize` are given by name.

    Args:
        stem_name: The file without its ending.
        wav: Float samples [C, N] or, of one channel, [N].
        sample_rate: In Hz.
        format: `wav` (16 bits), `flac` (24 bits), `mp3` or `ogg` (Vorbis).
        mp3_rate: kbit/s, for all channels together; the format ends at 320, below 32 kHz at 160.
        ogg_rate: kbit/s on average, as near as Vorbis gets; None leaves it to the music.
        normalize, strategy, peak_clip_headroom_db, rms_headroom_db, loudness_headroom_db,
            loudness_compressor, log_clipping: See `normalize_audio`; clipping is logged by default.
        make_parent_dir: Whether folders that are missing are made (default True).
        add_suffix: Whether the name gets its ending (default True).

    Raises:
        UnknownFormatError: `format` is none of these.
        ArgumentError: Samples are not floats or not finite, or as `normalize_audio`.
        ValueError: `wav` has another shape.
    """
    refuse_unknown("audio_write", rare, RareWrite)
    if not wav.dtype.is_floating_point:
        raise ArgumentError(f"wav has floats in -1 … 1, got {wav.dtype}; f32_pcm converts integers")
    if wav.ndim not in (1, 2):
        raise ValueError(f"wav is one clip [C, N] or [N], got {list(wav.shape)}; write one by one")
    if not wav.isfinite().all():
        raise ArgumentError(f"{stem_name}: samples that are not finite can't be written")
    if format not in KINDS:
        raise UnknownFormatError(f"format={format!r} is unknown; choose {', '.join(KINDS)}")
    levelled = normalize_audio(
        wav.detach().cpu().float().reshape(-1, wav.shape[-1]),
        normalize,
        rare.get("strategy", "peak"),
        rare.get("peak_clip_headroom_db", 1),
        rare.get("rms_headroom_db", 18),
        rare.get("loudness_headroom_db", 14),
        rare.get("loudness_compressor", False),
        log_clipping=rare.get("log_clipping", True),
        sample_rate=sample_rate,
        stem_name=str(stem_name),
    )
    data = _encoded(levelled, sample_rate, format, mp3_rate, ogg_rate)
    path = Path(f"{stem_name}.{format}" if rare.get("add_suffix", True) else stem_name)
    if rare.get("make_parent_dir", True):
        path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def f32_pcm(wav: Tensor) -> Tensor:
    """Integer samples of 16 or 32 bits as floats in -1 … 1; floats stay as they are."""
    if wav.dtype.is_floating_point:
        return wav
    bits = {torch.int16: 15, torch.int32: 31}.get(wav.dtype)
    if bits is None:
        raise ValueError(f"samples are floats or integers of 16 or 32 bits, got {wav.dtype}")
    floats: Tensor = wav.float() / 2**bits
    return floats


def i16_pcm(wav: Tensor) -> Tensor:
    """Floats in -1 … 1 as integers of 16 bits; a sample of exactly 1 becomes the largest of them.

    Raises:
        ArgumentError: A sample lies outside, or the integers have another width.
    """
    if wav.dtype == torch.int16:
        return wav
    if not wav.dtype.is_floating_point or bool((wav.abs() > 1).any()):
        raise ArgumentError("samples are floats in -1 … 1, or integers of 16 bits")
    return (wav.double() * 2**15).round().clamp(max=2**15 - 1).to(torch.int16)


def _encoded(wav: Tensor, rate_hz: int, fmt: str, mp3_rate: int, ogg_rate: int | None) -> bytes:
    if fmt == "wav":
        return _written(i16_pcm(wav.clamp(-1, 1)), rate_hz, fmt)
    if fmt == "mp3":
        # libsndfile spreads 0 … 1 over the bitrates that MPEG-1 has, or MPEG-2 below 32 kHz.
        lowest, highest = (32, 320) if rate_hz >= 32_000 else (8, 160)
        level = (highest - min(mp3_rate, highest)) / (highest - lowest)
        return _written(wav, rate_hz, fmt, level)
    if fmt == "ogg" and ogg_rate is not None:
        return _vorbis(wav, rate_hz, ogg_rate)
    return _written(wav, rate_hz, fmt, 1.0 - VORBIS_QUALITY if fmt == "ogg" else None)


def _vorbis(wav: Tensor, rate_hz: int, kbps: int) -> bytes:
    """Vorbis knows qualities, whose bitrate depends on the music: the one is searched that gives
    the wanted rate, by halving."""
    wanted = 1000 * kbps * wav.shape[-1] / rate_hz / 8  # bytes
    lowest, highest = 0.0, 1.0
    best = b""
    for _ in range(VORBIS_TRIES):
        quality = (lowest + highest) / 2
        data = _written(wav, rate_hz, "ogg", 1.0 - quality)
        if not best or abs(len(data) - wanted) < abs(len(best) - wanted):
            best = data
        lowest, highest = (lowest, quality) if len(data) > wanted else (quality, highest)
    return best


def _written(wav: Tensor, rate_hz: int, fmt: str, level: float | None = None) -> bytes:
    """The bytes of a file of samples [C, N]; `level` is libsndfile's, 0 compresses least."""
    import soundfile

    container, coding = KINDS[fmt]
    samples: np.ndarray[Any, Any] = wav.T.numpy()  # [N, C]
    buffer = io.BytesIO()
    with soundfile.SoundFile(
        buffer,
        "w",
        samplerate=rate_hz,
        channels=samples.shape[1],
        format=container,
        subtype=coding,
        compression_level=None if level is None else min(max(level, 0.0), 0.999),  # 1.0 is refused
        bitrate_mode="CONSTANT" if fmt == "mp3" else None,
    ) as file:
        for start in range(0, len(samples), WRITE_SAMPLES):
            file.write(samples[start : start + WRITE_SAMPLES])
    return buffer.getvalue()
