"""Which of a dead letter and a clip is newer: the generation of the lease decides, not a clock."""

from __future__ import annotations

import pytest

from pipeline.ledger import (
    SETTLED,
    clips_committed_by,
    dead_letters_of_run,
    read_clips,
    read_dead_letters,
)
from pipeline.ledger.lease import Lease
from pipeline.ledger.maintain import compact
from pipeline.storage import Storage, open_storage
from tests.pipeline.outputs import RUN, clip, commit, committed_ids, fail, hex_id, letter

DAY_S = 86_400
ROW_A = hex_id("row a")


@pytest.fixture
def storage(output_root: str) -> Storage:
    return open_storage(output_root)


def test_a_clock_that_is_a_day_late_mends_its_row_all_the_same(storage: Storage) -> None:
    fail(storage, [letter("a", DAY_S)], 0, generation=3)
    commit(storage, [clip("a1", 0, row="a")], 0, generation=4)
    assert not committed_ids(storage).has_letter(ROW_A)
    assert read_dead_letters(storage).num_rows == 0


def test_a_clock_that_is_a_day_early_hides_no_failure(storage: Storage) -> None:
    commit(storage, [clip("a1", DAY_S, row="a")], 0, generation=3)
    fail(storage, [letter("a", 0, message="failed since")], 0, generation=4)
    assert committed_ids(storage).has_letter(ROW_A)
    assert read_dead_letters(storage)["message"].to_pylist() == ["failed since"]


def test_of_letters_the_last_of_the_last_generation_speaks(storage: Storage) -> None:
    fail(storage, [letter("a", 50, message="first")], 7, generation=2)
    fail(storage, [letter("a", 40, message="second")], 0, "bbbbbb", generation=3)
    fail(storage, [letter("a", 30, message="third")], 1, "bbbbbb", generation=3)
    assert read_dead_letters(storage)["message"].to_pylist() == ["third"]
    fail(storage, [letter("a", 10, stage=SETTLED)], 0, "cccccc", generation=4)
    assert read_dead_letters(storage).num_rows == 0


def test_a_row_that_was_made_in_a_run_has_not_failed_in_it(storage: Storage) -> None:
    """Ray may send a row to a second replica while the first one gives it up."""
    commit(storage, [clip("a1", 0, row="a")], 0, generation=3)
    fail(storage, [letter("a", 10)], 5, "bbbbbb", generation=3)
    assert read_dead_letters(storage).num_rows == 0


def test_parts_of_earlier_versions_come_first_in_the_order_of_their_clocks(
    storage: Storage,
) -> None:
    fail(storage, [letter("a", 10), letter("b", 10), letter("c", 10 * DAY_S)], 0)
    commit(storage, [clip("a1", 20, row="a"), clip("b1", 5, row="b")], 0)
    commit(storage, [clip("c1", 5, row="c")], 1, generation=1)
    assert read_dead_letters(storage)["row_key"].to_pylist() == [hex_id("row b")]


def test_the_order_survives_compaction_even_twice(storage: Storage) -> None:
    fail(storage, [letter("a", DAY_S), letter("b", DAY_S)], 0, generation=1)
    commit(storage, [clip("a1", 0, row="a")], 0, generation=2)
    commit(storage, [clip("b1", 9 * DAY_S, row="b"), clip("c1", row="c")], 1, generation=2)
    fail(storage, [letter("b", 5, message="since")], 1, generation=3)
    for number in range(2):
        with Lease.acquire(storage) as lease:
            compact(storage, lease)
        assert len(storage.list("clips")) == len(storage.list("failed")) == 1
        assert read_dead_letters(storage)["message"].to_pylist() == ["since"]
        commit(storage, [clip(f"more {number}")], 10 + number, generation=4 + number)
    with Lease.acquire(storage) as lease:
        compact(storage, lease, prune=True)
    assert read_dead_letters(storage, standing=False)["message"].to_pylist() == ["since"]


def test_prune_keeps_the_newest_by_generation_not_by_clock(storage: Storage) -> None:
    commit(storage, [clip("x1", 9 * DAY_S, id="x")], 0, generation=1)
    commit(storage, [clip("x2", 0, id="x")], 1, generation=2)
    commit(storage, [clip("x2", 5, id="x")], 2, generation=3)  # doubled: the first is kept
    with Lease.acquire(storage) as lease:
        report = compact(storage, lease, prune=True)
    assert (report.n_doubled_dropped, report.n_superseded_dropped) == (1, 1)
    kept = read_clips(storage, ["clip_id", "created_at"]).to_pylist()
    assert [(row["clip_id"], row["created_at"].second) for row in kept] == [(hex_id("x2"), 0)]


def test_a_run_counts_only_what_its_own_lease_committed(storage: Storage) -> None:
    """Two runs may have the same name."""
    commit(storage, [clip(i) for i in range(5)], 0, generation=1)
    fail(storage, [letter("x", clip_id=hex_id("x"))], 0, generation=1)
    commit(storage, [clip(i) for i in range(5, 8)], 0, replica="bbbbbb", generation=2)
    fail(storage, [letter("y", clip_id=hex_id("y"))], 0, "bbbbbb", generation=2)

    assert [clips_committed_by(storage, RUN, n).num_rows for n in (1, 2, 3)] == [5, 3, 0]
    assert dead_letters_of_run(storage, RUN, 2) == {hex_id("y")}
    assert dead_letters_of_run(storage, RUN) == {hex_id("x"), hex_id("y")}
