"""Distributions and the course of a run for the report, as numbers that its template draws."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Histogram:
    """Counts between edges; the outer bins also hold what lies beyond them."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    median: float
    below: int
    """Values under the first edge, counted in the first bin."""
    above: int
    constant: bool
    """All values are one: a single bar in the middle."""

    @property
    def heights(self) -> list[float]:
        """Bars in percent; the smallest bar that holds anything can still be seen."""
        top = max(self.counts)
        return [max(4.0, 100.0 * n / top) if n else 0.0 for n in self.counts]


def histogram(values: NDArray[np.float64], bins: int = 24) -> Histogram | None:
    """Histogram of the finite values, or None where there are none.

    With many values the outermost 0.5 % on each side do not set the range.
    """
    values = values[np.isfinite(values)]
    if values.size == 0:
        return None
    low, high = float(values.min()), float(values.max())
    if values.size >= 200:
        low, high = (float(q) for q in np.quantile(values, [0.005, 0.995]))
    constant = high - low < 1e-9 * max(1.0, abs(low))
    if constant:
        half = max(abs(low) * 0.1, 1e-3)
        low, high, bins = low - half, high + half, 3
    counts, edges = np.histogram(np.clip(values, low, high), bins=bins, range=(low, high))
    return Histogram(
        edges=tuple(float(e) for e in edges),
        counts=tuple(int(n) for n in counts),
        median=float(np.median(values)),
        below=int(np.count_nonzero(values < low)),
        above=int(np.count_nonzero(values > high)),
        constant=constant,
    )


@dataclass(frozen=True)
class Span:
    """One run on the time axis of the report, in percent of its width."""

    run_id: str
    left: float
    width: float
    startup: float = 0.0
    """Of its width, until the first clip."""


@dataclass(frozen=True)
class Timeline:
    """Commits over working time. Runs follow one another without the time between them."""

    spans: tuple[Span, ...]
    growth_path: str
    """SVG area of the number of clips so far, in a box of 100 x 100."""
    speeds: tuple[float, ...]
    """Audio-seconds per second in equal slices of the axis."""
    total_s: float

    @property
    def speed_heights(self) -> list[float]:
        top = max(self.speeds) or 1.0
        return [100.0 * speed / top for speed in self.speeds]


def timeline(
    created_s: NDArray[np.float64],
    audio_s: NDArray[np.float64],
    run_ids: NDArray[np.str_],
    started_s: dict[str, float],
) -> Timeline | None:
    """Places clips on the time that runs took.

    Args:
        created_s: [n] when each clip was committed, Unix seconds.
        audio_s: [n] length of each clip.
        run_ids: [n] run of each clip.
        started_s: Start of each run, where known; else its first clip counts.
    """
    if created_s.size == 0:
        return None
    names, index = np.unique(run_ids, return_inverse=True)
    first = np.full(names.size, np.inf)
    last = np.full(names.size, -np.inf)
    np.minimum.at(first, index, created_s)
    np.maximum.at(last, index, created_s)
    first_clip = first
    first = np.minimum(first, [started_s.get(str(n), np.inf) for n in names])
    lengths = np.maximum(last - first, 1.0)
    startup = first_clip - first
    order = np.argsort(first, kind="stable")
    left = np.zeros(names.size)
    left[order] = np.concatenate([[0.0], np.cumsum(lengths[order])[:-1]])
    total_s = float(lengths.sum())
    x = (left[index] + created_s - first[index]) / total_s  # [n], 0..1
    slices = int(np.clip(created_s.size, 24, 96))
    made, _ = np.histogram(x, bins=slices, range=(0, 1), weights=audio_s)
    return Timeline(
        spans=tuple(
            Span(str(names[i]), *(100 * part[i] / total_s for part in (left, lengths, startup)))
            for i in order
        ),
        growth_path=_growth_path(np.sort(x)),
        speeds=tuple(float(s) for s in made / (total_s / slices)),
        total_s=total_s,
    )


def _growth_path(x: NDArray[np.float64], points: int = 240) -> str:
    """Area under the count of sorted x (0..1), as steps where there are few."""
    if x.size <= points:
        steps = (f"H{100 * at:.2f}V{100 - 100 * (i + 1) / x.size:.2f}" for i, at in enumerate(x))
        return "M0 100" + "".join(steps) + "H100V100Z"
    at = np.linspace(0, 1, points + 1)
    share = np.searchsorted(x, at, side="right") / x.size
    line = "".join(f"L{100 * a:.2f} {100 - 100 * s:.2f}" for a, s in zip(at, share, strict=True))
    return "M0 100" + line + "V100Z"
