"""Choosing tokens: counter-based noise, temperature, top-k, top-p, for many rows at once.

Noise never comes from a global generator. The number behind the token of frame t in codebook k is
word 0 of Philox4x32-10 with counter (t, k, 0, 0) and key (seed mod 2^32, seed div 2^32), divided by
2^32. A token is drawn with that one number by inversion: the first one, in vocabulary order, at
which the running sum of the kept probabilities (in float64) exceeds it. So a draw depends on seed,
frame, codebook and logits alone.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from musicgen.config import SamplingParams

_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


def philox4x32(counter: Tensor, key: tuple[int, int]) -> Tensor:
    """Philox4x32-10 (Salmon et al. 2011): words [..., 4] of the counters [..., 4], int64 each."""
    c0, c1, c2, c3 = counter.unbind(-1)
    k0, k1 = key
    for _ in range(_ROUNDS):
        # A product of two 32-bit words wraps in int64, but all of its 64 bits are right.
        product0, product1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        high0, high1 = (product0 >> 32) & _WORD, (product1 >> 32) & _WORD
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, product1 & _WORD, high0 ^ c3 ^ k1, product0 & _WORD
        k0, k1 = (k0 + _WEYL[0]) & _WORD, (k1 + _WEYL[1]) & _WORD
    return torch.stack([c0, c1, c2, c3], dim=-1)


def uniform(seed: int, n_codebooks: int, n_frames: int, first_frame: int = 0) -> Tensor:
    """The noise of a clip in [0, 1) from `first_frame` on: float64 [K, T].

    Frames are counted over the whole clip, however many windows it is made in.
    """
    counter = torch.zeros(n_codebooks, n_frames, 4, dtype=torch.int64)  # [K, T, 4]
    counter[..., 0] = torch.arange(first_frame, first_frame + n_frames)
    counter[..., 1] = torch.arange(n_codebooks)[:, None]
    words = philox4x32(counter, (seed & _WORD, seed >> 32))
    return words[..., 0].double() / 2**32  # [K, T]


@dataclass(frozen=True)
class FilterShape:
    """The static sizes of the sampling filters of a step; they never change its results.

    Attributes:
        draws: Whether any row samples; else every row takes its most likely token.
        max_top_k: A power of two that is at least the largest `top_k` among the rows that filter by
            it (so that few shapes occur); 0 if none does.
        top_p: Whether any row filters by `top_p`.
    """

    draws: bool = False
    max_top_k: int = 0
    top_p: bool = False

    @classmethod
    def of(cls, params: Iterable[SamplingParams]) -> "FilterShape":
        """The smallest sizes that are enough for all of `params`."""
        drawn = [p for p in params if not p.greedy]
        top_k = max((p.top_k for p in drawn if p.top_p == 0), default=0)
        return cls(
            draws=bool(drawn),
            max_top_k=1 << (top_k - 1).bit_length() if top_k else 0,
            top_p=any(p.top_p > 0 for p in drawn),
        )


@dataclass
class RowSampling:
    """The sampling parameters of R rows, as tensors.

    Attributes:
        greedy: Whether the row takes its most likely token: bool [R].
        temperature: Divides the logits: float32 [R], > 0.
        top_k: How many tokens are kept, 0 for all: int64 [R].
        top_p: How much probability is kept, 0 for all: float32 [R].
    """

    greedy: Tensor
    temperature: Tensor
    top_k: Tensor
    top_p: Tensor

    @classmethod
    def idle(cls, n_rows: int, device: torch.device) -> "RowSampling":
        """Rows that take their most likely token."""
        return cls(
            greedy=torch.ones(n_rows, dtype=torch.bool, device=device),
            temperature=torch.ones(n_rows, device=device),
            top_k=torch.zeros(n_rows, dtype=torch.int64, device=device),
            top_p=torch.zeros(n_rows, device=device),
        )

    def first(self, n_rows: int) -> "RowSampling":
        """A view of the first `n_rows` rows."""
        lead = slice(n_rows)
        return RowSampling(
            self.greedy[lead], self.temperature[lead], self.top_k[lead], self.top_p[lead]
        )

    def set(self, row: int, params: SamplingParams) -> None:
        """Let `row` be sampled by `params`."""
        self.greedy[row].fill_(params.greedy)
        self.temperature[row].fill_(1.0 if params.greedy else params.temperature)
        self.top_k[row].fill_(params.top_k)
        self.top_p[row].fill_(params.top_p)


def choose(logits: Tensor, rows: RowSampling, noise: Tensor, shape: FilterShape) -> Tensor:
    """Choose tokens.

    Args:
        logits: float32 [R, K, card], guidance applied.
        rows: The sampling parameters of the rows.
        noise: The random number of each token, float64 [R, K] in [0, 1).
        shape: At least what `FilterShape.of` gives for the rows.

    Returns:
        Tokens int64 [R, K]: sampled, or the most likely ones in greedy rows.
    """
    likely = logits.argmax(dim=-1)  # [R, K]
    if not shape.draws:
        return likely
    drawn = draw(filter_probs(logits, rows, shape), noise)  # [R, K]
    return torch.where(rows.greedy[:, None], likely, drawn)


def filter_probs(logits: Tensor, rows: RowSampling, shape: FilterShape) -> Tensor:
    """Probabilities [R, K, card] after temperature and top-p or else top-k, 0 where dropped.

    They are not renormalised: `draw` needs weights only.
    """
    probs = torch.softmax(logits / rows.temperature[:, None, None], dim=-1)  # [R, K, card]
    by_p = (rows.top_p > 0)[:, None, None]  # [R, 1, 1]
    kept = probs
    if shape.max_top_k:
        least = _kth_largest(probs, rows.top_k, shape.max_top_k)  # [R, K, 1]
        kept = torch.where((probs >= least) | by_p, kept, 0.0)
    if shape.top_p:
        kept = torch.where(_nucleus(probs, rows.top_p[:, None, None]) | ~by_p, kept, 0.0)
    return kept


def _kth_largest(probs: Tensor, top_k: Tensor, max_top_k: int) -> Tensor:
    """The smallest probability [R, K, 1] that top-k keeps; 0 where it keeps all."""
    card = probs.shape[-1]
    largest = probs.topk(min(max_top_k, card), dim=-1).values  # [R, K, max_top_k]
    index = (top_k - 1).clamp(0, largest.shape[-1] - 1)
    kth = largest.gather(-1, index[:, None, None].expand(-1, probs.shape[1], 1))  # [R, K, 1]
    everything = (top_k == 0) | (top_k >= card)
    return torch.where(everything[:, None, None], 0.0, kth)


def _nucleus(probs: Tensor, top_p: Tensor) -> Tensor:
    """Which tokens [R, K, card] have at most `top_p` of the probability ahead of them."""
    ordered, order = probs.sort(dim=-1, descending=True, stable=True)
    ahead = ordered.cumsum(dim=-1) - ordered
    return torch.empty_like(order, dtype=torch.bool).scatter_(-1, order, ahead <= top_p)


def draw(probs: Tensor, noise: Tensor) -> Tensor:
    """Tokens [...] drawn from weights `probs` [..., card] by inversion at `noise` [...]."""
    running = probs.double().cumsum(dim=-1)  # [..., card]
    target = (noise[..., None] * running[..., -1:]).contiguous()  # [..., 1]
    token = torch.searchsorted(running, target, right=True)[..., 0]
    return token.clamp(max=probs.shape[-1] - 1)  # in range even where `probs` is NaN
