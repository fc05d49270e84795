"""Conversion of audio to another sample rate and number of channels."""

from torch import Tensor

from musicgen.audio.resampling import resample


def convert_audio(wav: Tensor, from_rate: float, to_rate: float, to_channels: int) -> Tensor:
    """`wav` [..., C, N] resampled, then mixed to so many channels: [..., to_channels, M].

    Raises:
        ValueError: As `resample` and `convert_audio_channels`.
    """
    return convert_audio_channels(resample(wav, int(from_rate), int(to_rate)), to_channels)


def convert_audio_channels(wav: Tensor, channels: int = 2) -> Tensor:
    """`to_channels` under the reference's name."""
    return to_channels(wav, channels)


def to_channels(wav: Tensor, channels: int) -> Tensor:
    """Convert [C, N] to [channels, N].

    Mono is the mean of all channels, a mono signal is copied to every channel, and of more
    channels than wanted the first are kept.

    Raises:
        ValueError: Of several channels there are fewer than wanted.
    """
    if channels == 1:
        return wav.mean(dim=-2, keepdim=True)
    if wav.shape[-2] == 1:
        return wav.expand(*wav.shape[:-2], channels, wav.shape[-1])
    if wav.shape[-2] < channels:
        raise ValueError(f"audio has {wav.shape[-2]} channels, the model wants {channels}")
    return wav[..., :channels, :]
