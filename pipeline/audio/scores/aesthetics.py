"""Aesthetics of a clip by `audiobox-aesthetics`, where it is installed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from pipeline.audio.scores.protocol import Needs, ScoredClip, ScorerIdentity

# The axes on which more is better; the fourth, production complexity, says nothing of quality.
AXES = ("CE", "CU", "PQ")


class AestheticsScorer:
    """Mean of the axes of the predictor.

    Args:
        identity: See `Scorer`.
        checkpoint: File with the weights; None: those of the hub's cache.
    """

    def __init__(self, identity: ScorerIdentity, checkpoint: Path | None) -> None:
        from audiobox_aesthetics.infer import initialize_predictor

        self.identity, self.needs = identity, Needs(16_000)
        self._predictor: Any = initialize_predictor(None if checkpoint is None else str(checkpoint))

    def score(self, clips: Sequence[ScoredClip]) -> list[float | None]:
        """See `Scorer`: each clip has a pass of its own, so that none depends on the others."""
        return [self._score(clip) for clip in clips]

    @torch.inference_mode()
    def _score(self, clip: ScoredClip) -> float:
        told = {"path": clip.mono(self.needs.rate_hz)[None], "sample_rate": self.needs.rate_hz}
        axes = self._predictor.forward([told])[0]
        return sum(float(axes[axis]) for axis in AXES) / len(AXES)
