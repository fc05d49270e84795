"""FAD and KAD against other ways of computing them."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import linalg
from scipy.spatial.distance import cdist, pdist

from pipeline.audio.scores import distances
from pipeline.audio.scores.distances import frechet_distance, kernel_distance, median_distance

Points = NDArray[np.float64]


def points(n: int, d: int, seed: int, shift: float = 0.0) -> Points:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + shift


def fad_by_sqrtm(one: Points, other: Points) -> float:
    """The formula as fadtk and pytorch-fid write it."""
    a, b = np.cov(one, rowvar=False), np.cov(other, rowvar=False)
    cross = linalg.sqrtm(a @ b)
    means = one.mean(axis=0) - other.mean(axis=0)
    return float(means @ means + np.trace(a) + np.trace(b) - 2 * np.trace(np.real(cross)))


def kad_by_pairs(one: Points, reference: Points) -> float:
    """The sum over pairs, with the bandwidth of kadtk: torch takes the lower of two medians."""
    lengths = np.sort(pdist(reference))
    gamma = 1 / (2 * lengths[(len(lengths) - 1) // 2] ** 2 + 1e-8)

    def kernel(a: Points, b: Points) -> Points:
        values: Points = np.exp(-gamma * cdist(a, b, "sqeuclidean"))
        return values

    def within(a: Points) -> float:
        values = kernel(a, a)
        return float((values.sum() - np.trace(values)) / (len(a) * (len(a) - 1)))

    return 100 * (within(one) + within(reference) - 2 * float(kernel(one, reference).mean()))


@pytest.mark.parametrize(("n", "m", "d"), [(60, 80, 5), (200, 40, 12), (30, 30, 64)])
def test_they_agree_with_the_published_formulas(n: int, m: int, d: int) -> None:
    one, other = points(n, d, 1), points(m, d, 2, shift=0.5)
    # Where there are fewer clips than dimensions the product is singular, and sqrtm is less exact.
    assert frechet_distance(one, other) == pytest.approx(fad_by_sqrtm(one, other), rel=1e-4)
    assert kernel_distance(one, other) == pytest.approx(kad_by_pairs(one, other), rel=1e-9)


def test_normal_distributions_in_closed_form() -> None:
    """In one dimension: the squared difference of the means plus that of the deviations."""
    rng = np.random.default_rng(0)
    one, other = rng.normal(0, 1, (200_000, 1)), rng.normal(3, 2, (200_000, 1))
    assert frechet_distance(one, other) == pytest.approx(3**2 + (2 - 1) ** 2, rel=0.01)
    # Axes that do not depend on each other add up.
    both = np.hstack([one, other])
    swapped = np.hstack([other, one])
    assert frechet_distance(both, swapped) == pytest.approx(2 * (3**2 + 1), rel=0.01)


def test_a_set_is_at_no_distance_from_itself_and_the_order_does_not_matter() -> None:
    one = points(50, 6, 3)
    shuffled = one[np.random.default_rng(1).permutation(len(one))]
    assert frechet_distance(one, shuffled) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(one, points(50, 6, 4)) == pytest.approx(
        frechet_distance(points(50, 6, 4), one)
    )
    assert kernel_distance(one, shuffled) == pytest.approx(kad_by_pairs(one, one), abs=1e-9)


def test_kernels_are_summed_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = points(33, 4, 5), points(21, 4, 6)
    whole = kernel_distance(one, other)
    monkeypatch.setattr(distances, "BLOCK_ROWS", 8)
    assert kernel_distance(one, other) == pytest.approx(whole, rel=1e-12)


def test_too_few_clips_have_no_distance() -> None:
    one = points(5, 3, 7)
    assert frechet_distance(one[:1], one) is None
    assert kernel_distance(one, one[:1]) is None
    assert kernel_distance(one, np.ones((4, 3))) is None  # a reference without any spread
    assert median_distance(np.array([[0.0], [1.0], [5.0]])) == 4.0
