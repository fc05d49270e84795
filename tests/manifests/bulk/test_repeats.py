"""Rows that repeat an id, found among many."""

import random

import numpy as np
import pytest

from manifests.bulk import repeats
from manifests.bulk.repeats import RowIds, digests_of


def by_counting(ids: list[str]) -> dict[int, tuple[int, int]]:
    """The same, plainly: row to (first row, rows before it)."""
    rows: dict[str, list[int]] = {}
    found = {}
    for row, id in enumerate(ids):
        before = rows.setdefault(id, [])
        if before:
            found[row] = (before[0], len(before))
        before.append(row)
    return found


@pytest.mark.parametrize("rows_per_partition", [10, 100, 1_000_000])
def test_repeats_are_those_of_counting_in_any_order_of_pieces(
    rows_per_partition: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repeats, "ROWS_PER_PARTITION", rows_per_partition)
    draw = random.Random(1)
    ids = [f"r{draw.randrange(400)}" for _ in range(700)]
    found = RowIds()
    pieces = [range(start, min(start + 97, 600)) for start in range(0, 600, 97)]
    draw.shuffle(pieces)
    for number, piece in enumerate(pieces):
        rows = piece if number % 2 else np.array(piece)
        found.note_many(rows, digests_of(ids[row] for row in piece))
    for row in range(600, 700):
        found.note(ids[row], row)

    assert found.repeats() == by_counting(ids)
    assert list(found.repeats()) == sorted(found.repeats())


def test_ids_that_share_half_a_digest_are_not_the_same() -> None:
    found = RowIds()
    halves = [b"12345678" + bytes([n] * 8) for n in (1, 2, 1, 3, 2, 1)]
    found.note_many(range(6), np.frombuffer(b"".join(halves), "S16"))

    assert found.repeats() == {2: (0, 1), 4: (1, 1), 5: (0, 2)}


def test_no_rows_have_no_repeats() -> None:
    assert RowIds().repeats() == {}
