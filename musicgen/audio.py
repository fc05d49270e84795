"""Conversion of input audio to another sample rate and number of channels."""

import math
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from musicgen.config import resampling_ratio

ZEROS = 24  # zero crossings of the sinc kernel on each side
ROLLOFF = 0.945  # cut-off as a share of the lower Nyquist frequency
COLUMNS_BYTES = 64 * 2**20  # working memory of a convolution in float64


def resample(wav: Tensor, from_hz: int, to_hz: int) -> Tensor:
    """Band-limited sinc resampling [..., N] -> [..., N·to_hz // from_hz].

    The kernel is torchaudio's. Beyond the edges the first and last sample are repeated, and the
    length is rounded down; torchaudio alone pads with zeros and rounds up. In float64, where a
    convolution takes up to 50 times the memory of its input, long audio is resampled in pieces:
    the last bits of a sample may depend on its length.

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
    n_edge = -(-reach // down)  # periods
    n_out = n_samples * to_hz // from_hz
    n_periods = -(-n_out // up)
    step = max(1, n_periods)
    if wav.dtype == torch.float64:  # there the convolution writes down what each output is made of
        taps = 2 * math.ceil(ZEROS * down / (ROLLOFF * min(down, up))) + down
        step = max(1, COLUMNS_BYTES // (wav[..., 0].numel() * taps * wav.element_size()))
    flat = wav.reshape(1, -1, n_samples)  # [1, C, N]
    kernel = _kernel(from_hz, to_hz, wav.dtype)
    out = wav.new_empty((1, flat.shape[1], n_out))
    for first in range(0, n_periods, step):
        last = min(first + step, n_periods)
        begin = (first - n_edge) * down
        end = n_edge * down + (last * down if last < n_periods else n_samples)
        piece = flat[..., max(begin, 0) : min(end, n_samples)]
        edges = (max(-begin, 0), max(end - n_samples, 0))
        made = kernel(F.pad(piece, edges, mode="replicate"))[..., n_edge * up :]
        n_made = min(last * up, n_out) - first * up
        out[..., first * up : first * up + n_made] = made[..., :n_made]
    return out.reshape(*wav.shape[:-1], n_out)


@lru_cache(maxsize=4)
def _kernel(from_hz: int, to_hz: int, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    from torchaudio.transforms import Resample  # where nothing is resampled, it may be missing

    resampler: Callable[[Tensor], Tensor] = Resample(
        from_hz, to_hz, lowpass_filter_width=ZEROS, rolloff=ROLLOFF, dtype=dtype
    )
    return resampler


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
