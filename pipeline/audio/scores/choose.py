"""Which takes of a row are kept: the best by score, decided by their scores and numbers alone."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b

from pipeline.audio.scores.protocol import ScorerIdentity


def best_takes(scores: Mapping[int, float | None], keep: int) -> frozenset[int]:
    """The takes to keep, by number. Of equal scores the lower take goes first; takes without a
    score come last, so that of a row that the scorer can't judge the first ones stay."""

    def rank(take: int) -> tuple[bool, float, int]:
        score = scores[take]
        return (score is None, 0.0 if score is None else -score, take)

    return frozenset(sorted(scores, key=rank)[:keep])


def ruling_of(keep: int, takes: int, judge: ScorerIdentity) -> str:
    """Names how the takes of a row are judged: another number of takes or of those that are kept,
    or another scorer, is another ruling. 32 hex digits."""
    told = f"ruling 1\0{keep}\0{takes}\0{judge.name}\0{judge.digest}"
    return blake2b(told.encode(), digest_size=16).hexdigest()
