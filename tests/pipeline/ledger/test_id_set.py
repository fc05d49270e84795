"""Sets of ids as sorted arrays: the quick ways find what the plain ones find."""

import random

import numpy as np
import pytest

from pipeline.ledger.id_set import ID_BYTES, NO_IDS, Ids, among, searcher, sorted_unique


def random_ids(rng: random.Random, n: int) -> Ids:
    """Ids of which many share their first half, are equal, or end with zeros."""
    halves = [rng.randbytes(8) for _ in range(max(1, n // 3))] + [bytes(8)]
    ids = [rng.choice(halves) + rng.choice([*halves, rng.randbytes(8)]) for _ in range(n)]
    return np.frombuffer(b"".join(ids), f"S{ID_BYTES}", n)


@pytest.mark.parametrize("seed", range(20))
def test_quick_ways_find_what_the_plain_ones_find(seed: int) -> None:
    rng = random.Random(seed)
    ids, more = random_ids(rng, rng.choice([0, 1, 7, 300])), random_ids(rng, 100)
    known = sorted_unique(ids)

    assert np.array_equal(known, np.unique(ids))
    wanted = np.concatenate([NO_IDS, ids, more])
    assert np.array_equal(searcher(known)(wanted), among(wanted, known))


def test_ids_without_a_repeat_are_sorted_as_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = np.frombuffer(random.Random(1).randbytes(ID_BYTES * 500), f"S{ID_BYTES}")
    expected = np.unique(ids)
    monkeypatch.delattr(np, "unique")
    assert np.array_equal(sorted_unique(ids), expected)
