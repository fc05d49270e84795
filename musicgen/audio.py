"""Conversion of input audio to another sample rate and number of channels."""

import math

from torch import Tensor
from torch.nn import functional as F
from torchaudio.functional import resample as _torchaudio_resample

from musicgen.config import resampling_ratio

ZEROS = 24  # zero crossings of the sinc kernel on each side
ROLLOFF = 0.945  # cut-off as a share of the lower Nyquist frequency


def resample(wav: Tensor, from_hz: int, to_hz: int) -> Tensor:
    """Band-limited sinc resampling [..., N] -> [..., N·to_hz // from_hz].

    The kernel is torchaudio's. Beyond the edges the first and last sample are repeated, and the
    length is rounded down; torchaudio alone pads with zeros and rounds up.

    Raises:
        ValueError: A rate is not positive, or their ratio would need a kernel of over 120 MB.
    """
    if from_hz <= 0 or to_hz <= 0:
        raise ValueError(f"sample rates are positive, got {from_hz} Hz and {to_hz} Hz")
    n_samples = wav.shape[-1]
    if from_hz == to_hz or n_samples == 0:
        return wav
    down, up = resampling_ratio(from_hz, to_hz)
    # Repeat what the kernel reaches beyond the edges, in whole periods: whole outputs to cut off.
    reach = math.ceil(ZEROS * from_hz / (ROLLOFF * min(from_hz, to_hz))) + 1
    n_periods = -(-reach // down)
    pad = n_periods * down
    padded = F.pad(wav.reshape(1, -1, n_samples), (pad, pad), mode="replicate")  # [1, C, N + 2·pad]
    out = _torchaudio_resample(padded, from_hz, to_hz, lowpass_filter_width=ZEROS, rolloff=ROLLOFF)
    start, n_out = n_periods * up, n_samples * to_hz // from_hz
    cut: Tensor = out[..., start : start + n_out].reshape(*wav.shape[:-1], n_out)
    return cut


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
