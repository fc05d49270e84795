"""What stands, read with and without the keys that are kept in the output."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline import ledger
from pipeline.ledger import maintain, part_index
from pipeline.ledger.id_set import pack_ids
from pipeline.ledger.lease import Lease
from pipeline.ledger.part_index import packed, read_standing
from pipeline.storage import Storage, open_storage
from tests.pipeline.outputs import clip, commit, fail, hex_id, letter


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    monkeypatch.setattr(part_index, "FEWEST_PARTS", 1)
    return open_storage(str(tmp_path / "out"))


class Counting:
    """Runs tasks here, and counts the parts that they read."""

    def __init__(self) -> None:
        self.n_parts = 0

    def __call__(self, action: Any, tasks: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        for index, task in enumerate(tasks):
            self.n_parts += len(task)
            yield index, action(task, lambda: False)


def same_as_all_parts(storage: Storage) -> bool:
    """Whether the index gives what reading every part gives."""
    found, letters = read_standing(storage), ledger.read_dead_letters(storage)
    clips = ledger.read_clips(storage, ["clip_id"])["clip_id"].to_pylist()
    rows = letters["row_key"].to_pylist()
    return (
        np.array_equal(found.known.clips, np.unique(ledger.pack_ids(clips)))
        and np.array_equal(found.known.letters, np.unique(ledger.pack_ids(rows)))
        and found.letters.sort_by("row_key").equals(letters.sort_by("row_key"))
    )


def test_parts_are_read_once(storage: Storage) -> None:
    for seq in range(5):
        commit(storage, [clip(f"{seq}-{n}", n) for n in range(4)], seq)
    fail(storage, [letter("0-1", 0), letter("0-2", 9), letter("else", 3)], 0)
    count = Counting()

    first = read_standing(storage, count, keep=True)
    assert count.n_parts == 5
    commit(storage, [clip("new", 20, row="else")], 9)
    second = read_standing(storage, count, keep=True)

    assert count.n_parts == 6
    assert len(second.known) == len(first.known) + 1
    assert first.known.has_letters([hex_id("row 0-2"), hex_id("row else")]).tolist() == [True] * 2
    assert second.failures() == {hex_id("row 0-2"): 1}  # the clip came after the letter of `else`
    assert same_as_all_parts(storage)


def test_parts_that_are_gone_do_not_count(storage: Storage) -> None:
    paths = [commit(storage, [clip(f"{seq}-{n}") for n in range(4)], seq) for seq in range(3)]
    read_standing(storage, keep=True)
    storage.delete(paths[1:2])

    assert not read_standing(storage).known.contains(hex_id("1-0"))
    assert same_as_all_parts(storage)


def test_compaction_leaves_what_stands(storage: Storage) -> None:
    for seq in range(3):
        commit(storage, [clip(f"{seq}-{n}") for n in range(4)], seq)
    before = read_standing(storage, keep=True)
    with Lease.acquire(storage) as lease:
        maintain.compact(storage, lease)
        maintain.gc(storage, lease, min_age_s=0)

    assert storage.list(part_index.FOLDER)
    assert np.array_equal(read_standing(storage).known.clips, before.known.clips)


def test_many_small_segments_become_one(storage: Storage) -> None:
    for seq in range(part_index.MOST_SMALL + 3):
        commit(storage, [clip(f"{seq}-{n}") for n in range(4)], seq)
        read_standing(storage, keep=True)

    assert len(storage.list(part_index.FOLDER)) <= 3
    count = Counting()
    read_standing(storage, count)
    assert count.n_parts == 0
    assert same_as_all_parts(storage)


def test_a_clip_that_stands_twice_counts_once(storage: Storage) -> None:
    commit(storage, [clip("a"), clip("b")], 0)
    commit(storage, [clip("a"), clip("c")], 1)

    assert len(read_standing(storage, keep=True).known) == 3
    assert same_as_all_parts(storage)


def test_an_output_without_anything(storage: Storage) -> None:
    standing = read_standing(storage, keep=True)

    assert len(standing.known) == 0
    assert standing.failures() == {}
    assert storage.list() == []


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
def test_ids_are_packed_as_one_by_one(kind: pa.DataType) -> None:
    ids = [hex_id(n) for n in range(300)]
    column = pa.chunked_array([pa.array(ids[:7], kind), pa.array(ids[5:], kind)[2:]])

    assert np.array_equal(packed(column), pack_ids(ids))


@pytest.mark.parametrize("bad", ["0" * 31, "0" * 33, "", "é" * 16])
def test_what_is_no_id_is_an_error(bad: str) -> None:
    with pytest.raises(ValueError):
        packed(pa.chunked_array([[hex_id(1), bad, hex_id(2)]]))
