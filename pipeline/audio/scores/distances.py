"""How far one set of clips is from another: Fréchet and kernel distance of their embeddings.

The Fréchet audio distance (Kilgour et al., 2019) is that of two normal distributions; it grows with
the number of dimensions over the number of clips. The kernel audio distance (Chung et al., 2025) is
the unbiased squared maximum mean discrepancy with a Gaussian kernel, times 100, as kadtk computes
it; it has no such bias, and may be slightly negative where the sets are alike.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Embeddings = NDArray[np.float64]  # [n, D]

KAD_SCALE = 100.0
BANDWIDTH_CLIPS = 4096  # of the reference, the first ones, that the median distance is taken over
BLOCK_ROWS = 1024  # whose kernels are computed at once
_EPS = 1e-8


def frechet_distance(clips: Embeddings, reference: Embeddings) -> float | None:
    """FAD of two sets; None where one has fewer than two clips."""
    if len(clips) < 2 or len(reference) < 2:
        return None
    means = clips.mean(axis=0) - reference.mean(axis=0)
    one, other = (np.atleast_2d(np.cov(each, rowvar=False)) for each in (clips, reference))
    # tr (C1 C2)^½ is the sum of the roots of the eigenvalues of C1^½ C2 C1^½, which is symmetric.
    values, vectors = np.linalg.eigh(one)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ other @ root).clip(min=0)).sum()
    return float(means @ means + np.trace(one) + np.trace(other) - 2 * cross)


def kernel_distance(clips: Embeddings, reference: Embeddings) -> float | None:
    """KAD of two sets; None where one has fewer than two clips, or the reference is all the same.

    The bandwidth of the kernel is the median distance between clips of the reference.
    """
    n, m = len(clips), len(reference)
    if n < 2 or m < 2:
        return None
    bandwidth = median_distance(reference[:BANDWIDTH_CLIPS])
    if bandwidth == 0.0:
        return None
    gamma = 1 / (2 * bandwidth**2 + _EPS)
    own = (_kernel_sum(clips, clips, gamma) - n) / (n * (n - 1))
    others = (_kernel_sum(reference, reference, gamma) - m) / (m * (m - 1))
    between = _kernel_sum(clips, reference, gamma) / (n * m)
    return float(KAD_SCALE * (own + others - 2 * between))


def median_distance(points: Embeddings) -> float:
    """The (lower) median of the distances between different points."""
    squared = _squared_distances(points, points)
    distances = np.sqrt(squared[np.triu_indices(len(points), 1)])
    return float(np.sort(distances)[(len(distances) - 1) // 2])


def _kernel_sum(one: Embeddings, other: Embeddings, gamma: float) -> float:
    """Sum of the kernel over all pairs, a point with itself included."""
    starts = range(0, len(one), BLOCK_ROWS)
    return sum(
        float(np.exp(-gamma * _squared_distances(one[start : start + BLOCK_ROWS], other)).sum())
        for start in starts
    )


def _squared_distances(one: Embeddings, other: Embeddings) -> Embeddings:
    squares = (one**2).sum(axis=1)[:, None] + (other**2).sum(axis=1)[None]
    distances: Embeddings = (squares - 2 * one @ other.T).clip(min=0)
    if one is other:
        np.fill_diagonal(distances, 0.0)
    return distances
