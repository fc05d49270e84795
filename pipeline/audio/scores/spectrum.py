"""A plain embedding that needs no weights: levels of frequency bands, and how far they vary.

Distances between such embeddings compare sets of one's own with each other; they are no published
FAD or KAD, which are of the embeddings of a model.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from pipeline.audio.scores.protocol import ScoredClip, ScorerIdentity

if TYPE_CHECKING:
    from pipeline.audio.scores.protocol import Embedding

RATE_HZ, N_FFT, HOP = 16_000, 1024, 512
BANDS, LOWEST_HZ, HIGHEST_HZ = 24, 60.0, 7600.0
FLOOR = 1e-6  # of the power in a band


class SpectrumEmbedder:
    """Mean and spread over time of the level of BANDS bands, in decibels: 2 · BANDS numbers.

    Args:
        identity: See `Embedder`.
    """

    def __init__(self, identity: ScorerIdentity) -> None:
        self.identity = identity
        edges = torch.logspace(math.log10(LOWEST_HZ), math.log10(HIGHEST_HZ), BANDS + 1)
        bins_hz = torch.arange(N_FFT // 2 + 1) * RATE_HZ / N_FFT
        inside = (bins_hz >= edges[:-1, None]) & (bins_hz < edges[1:, None])  # [BANDS, F]
        centres = (edges[:-1] * edges[1:]).sqrt()
        nearest = (bins_hz[None] - centres[:, None]).abs().argmin(dim=1)
        inside[torch.arange(BANDS), nearest] = True  # narrow bands hold one bin at least
        self._bands = inside.double() / inside.sum(dim=1, keepdim=True)

    @torch.inference_mode()
    def embed(self, clip: ScoredClip) -> Embedding:
        """See `Embedder`."""
        wav = clip.mono(RATE_HZ).double()
        wav = torch.nn.functional.pad(wav, (0, max(0, N_FFT - len(wav))))
        window = torch.hann_window(N_FFT, dtype=torch.float64)
        spectrum = torch.stft(wav, N_FFT, HOP, window=window, return_complex=True)  # [F, n]
        levels = 10 * (self._bands @ spectrum.abs().square() + FLOOR).log10()  # [BANDS, n]
        spread = levels.std(dim=1, correction=0)
        embedding: Embedding = torch.cat([levels.mean(dim=1), spread]).numpy()
        return embedding
