"""Band-limited resampling, whole or in pieces, to the reference's numbers."""

import math
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import chain

import torch
from torch import Tensor
from torch.nn import functional as F

from musicgen.config import resampling_ratio

ZEROS = 24  # zero crossings of the sinc kernel on each side
ROLLOFF = 0.945  # cut-off as a share of the lower Nyquist frequency
COLUMNS_BYTES = 64 * 2**20  # working memory of a convolution in float64
KERNEL_NUMBERS = 2**20  # of the kernel that are computed at once
WHOLE_SAMPLES, PIECE_SAMPLES = 2**24, 2**22  # of all channels, in float32


def resample(wav: Tensor, from_hz: int, to_hz: int) -> Tensor:
    """Band-limited sinc resampling [..., N] -> [..., N·to_hz // from_hz].

    As in AudioCraft (by julius, which is not needed here) beyond the edges the first and last
    sample are repeated, and the length is rounded down. Long audio is resampled in pieces: the last
    bits of a sample may depend on its length.

    Raises:
        ValueError: A rate is not positive, or their ratio would need a kernel of over 120 MB.
    """
    n_samples = wav.shape[-1]
    _check_rates(from_hz, to_hz)
    if n_samples == 0:
        return wav
    flat = wav.reshape(-1, n_samples)  # [C, N]
    pieces = resampled_pieces([flat], n_samples, from_hz, to_hz)
    first = next(pieces, flat[:, :0])
    n_out = n_samples * to_hz // from_hz
    if first.shape[-1] == n_out:
        return first.reshape(*wav.shape[:-1], n_out)
    out = wav.new_empty((len(flat), n_out))
    n_done = 0
    for piece in chain([first], pieces):
        out[:, n_done : n_done + piece.shape[-1]] = piece
        n_done += piece.shape[-1]
    return out.reshape(*wav.shape[:-1], n_out)


def resampled_pieces(
    blocks: Iterable[Tensor], n_samples: int, from_hz: int, to_hz: int
) -> Iterator[Tensor]:
    """`resample` of audio that comes in blocks, piece by piece; it holds one piece at a time.

    Args:
        blocks: [C, n] each; taken to its end, also where more comes than is resampled.
        n_samples: How many samples per channel are resampled, at least 1.
        from_hz: Their rate.
        to_hz: The rate of the result.

    Yields:
        [C, m] each, n_samples·to_hz // from_hz samples in all.

    Raises:
        ValueError: As `resample`, or the blocks hold less than `n_samples`.
    """
    _check_rates(from_hz, to_hz)
    source = _Source(blocks, n_samples)
    if from_hz == to_hz:
        yield from source.as_it_is()
        return
    down, up = resampling_ratio(from_hz, to_hz)
    # Repeat what the kernel reaches beyond the edges, in whole periods: whole outputs to cut off.
    reach = math.ceil(ZEROS * from_hz / (ROLLOFF * min(from_hz, to_hz))) + 1
    n_edge = -(-reach // down)  # periods
    n_out = n_samples * to_hz // from_hz
    n_periods = -(-n_out // up)
    held = source.take(0, 0)
    step = _step(held, n_samples, n_periods, (down, up))
    kernel = _Kernel.of(down, up, held.dtype)
    for first in range(0, n_periods, step):
        last = min(first + step, n_periods)
        begin = (first - n_edge) * down
        end = n_edge * down + (last * down if last < n_periods else n_samples)
        piece = source.take(max(begin, 0), min(end, n_samples))
        edges = (max(-begin, 0), max(end - n_samples, 0))
        made = kernel(F.pad(piece[None], edges, mode="replicate")[0])[:, n_edge * up :]
        yield made[:, : min(last * up, n_out) - first * up]
    source.finish()


def _check_rates(from_hz: int, to_hz: int) -> None:
    if from_hz <= 0 or to_hz <= 0:
        raise ValueError(f"sample rates are positive, got {from_hz} Hz and {to_hz} Hz")


def _step(like: Tensor, n_samples: int, n_periods: int, ratio: tuple[int, int]) -> int:
    """How many periods of the kernel are resampled at once."""
    (down, up), channels = ratio, len(like)
    if like.dtype == torch.float64:  # there the convolution writes down what each output is made of
        taps = 2 * math.ceil(ZEROS * down / (ROLLOFF * min(down, up))) + down
        return max(1, COLUMNS_BYTES // (channels * taps * like.element_size()))
    if n_samples * channels <= WHOLE_SAMPLES:
        return max(1, n_periods)
    return max(1, PIECE_SAMPLES // (channels * down))


class _Source:
    """The first samples of audio in blocks; ranges of it are taken from left to right."""

    def __init__(self, blocks: Iterable[Tensor], n_samples: int) -> None:
        self._blocks, self._n_left = iter(blocks), n_samples
        self._held: Tensor | None = None  # [C, n], from sample `_begin` on
        self._begin = 0

    def take(self, begin: int, end: int) -> Tensor:
        """Samples [C, end - begin]; earlier ones are forgotten."""
        parts = [self._next() if self._held is None else self._held]
        n_held = parts[0].shape[-1]
        while self._begin + n_held < end:
            parts.append(self._next())
            n_held += parts[-1].shape[-1]
        held = parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
        self._held, self._begin = held[:, begin - self._begin :], begin
        return self._held[:, : end - begin]

    def as_it_is(self) -> Iterator[Tensor]:
        """All samples, as they come."""
        while self._n_left:
            yield self._next()
        self.finish()

    def finish(self) -> None:
        """Takes what nobody wants: a file is looked at to its end."""
        for _ in self._blocks:
            pass

    def _next(self) -> Tensor:
        block = next(self._blocks, None)
        if block is None:
            raise ValueError(f"the audio ends {self._n_left} samples before its declared length")
        block = block[:, : self._n_left]
        self._n_left -= block.shape[-1]
        return block


class _Kernel:
    """One row of weights for each of the `up` outputs that fall into a period of `down` inputs.

    A row is a sinc with its cut-off at `ROLLOFF` of the lower Nyquist frequency, in a Hann window
    of `ZEROS` zero crossings to each side, and has the sum 1: a constant stays that constant.
    """

    def __init__(self, down: int, up: int, dtype: torch.dtype) -> None:
        rate = ROLLOFF * min(down, up)
        self.down, self.reach = down, math.ceil(ZEROS * down / rate)
        taps = torch.arange(-self.reach, self.reach + down, dtype=torch.float32) / down  # [taps]
        self.weights = torch.empty(up, 1, len(taps), dtype=dtype)  # [up, 1, taps]
        # In float32 and in the reference's order: where the period is long, the rounding of the
        # difference is worth 1e-4 of the samples.
        for rows in torch.split(torch.arange(up), max(1, KERNEL_NUMBERS // len(taps))):
            offsets = (-rows.double() / up).float()[:, None]  # [rows, 1]
            angle = ((offsets + taps) * rate).clamp(-ZEROS, ZEROS) * math.pi  # [rows, taps]
            sinc = torch.where(angle == 0, 1.0, torch.sin(angle) / angle)
            row = sinc * torch.cos(angle / ZEROS / 2).square()
            self.weights[rows, 0] = (row / row.sum(dim=-1, keepdim=True)).to(dtype)

    @classmethod
    @lru_cache(maxsize=4)
    def of(cls, down: int, up: int, dtype: torch.dtype) -> "_Kernel":
        """The kernel of this ratio; those last used are kept."""
        return cls(down, up, dtype)

    def __call__(self, wav: Tensor) -> Tensor:
        """`wav` [C, N] at the other rate, as if silence surrounded it: [C, periods · up]."""
        padded = F.pad(wav, (self.reach, self.reach + self.down))
        weights = self.weights.to(wav.device)
        out = F.conv1d(padded[:, None], weights, stride=self.down)  # [C, up, periods]
        return out.transpose(1, 2).flatten(1)
