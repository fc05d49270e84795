"""Which takes are kept follows from their scores and numbers, and from nothing else."""

from itertools import permutations

import pytest

from pipeline.audio.scores.choose import best_takes, ruling_of
from pipeline.audio.scores.protocol import ScorerIdentity

JUDGE = ScorerIdentity("melody", "built in", "a" * 32)


@pytest.mark.parametrize(
    ("scores", "keep", "best"),
    [
        ({0: 0.2, 1: 0.9, 2: 0.5}, 1, {1}),
        ({0: 0.2, 1: 0.9, 2: 0.5}, 2, {1, 2}),
        ({0: 0.5, 1: 0.5, 2: 0.5}, 1, {0}),  # of equal scores the lower take goes first
        ({0: 0.1, 1: 0.5, 2: 0.5}, 2, {1, 2}),
        ({0: None, 1: -3.0, 2: None}, 1, {1}),  # a bad score is better than none
        ({0: None, 1: None, 2: None}, 2, {0, 1}),
        ({2: 0.5, 3: 0.4}, 4, {2, 3}),
        ({}, 1, set()),
    ],
)
def test_the_best_are_kept(scores: dict[int, float | None], keep: int, best: set[int]) -> None:
    for order in permutations(scores.items()):
        assert best_takes(dict(order), keep) == best


def test_a_ruling_is_another_where_anything_that_decides_is_another() -> None:
    other = ScorerIdentity("melody", "built in", "b" * 32)
    rulings = {
        ruling_of(1, 4, JUDGE),
        ruling_of(2, 4, JUDGE),
        ruling_of(1, 5, JUDGE),
        ruling_of(1, 4, other),
    }
    assert len(rulings) == 4
    renamed = ScorerIdentity("melody", "where the weights lie decides nothing", "a" * 32)
    assert ruling_of(1, 4, renamed) == ruling_of(1, 4, JUDGE)
