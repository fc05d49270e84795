"""The records of runs, beside files of others."""

from __future__ import annotations

import json

import pytest

from pipeline.ledger import read_runs, write_run
from pipeline.storage import Storage, open_storage

FIRST, SECOND, THIRD = (
    "20260101T000000-ffffff",
    "20260102T000000-bbbbbb",
    "20250101T000000-aaaaaa",  # by a clock that is a year late
)


@pytest.fixture
def storage(output_root: str) -> Storage:
    return open_storage(output_root)


def test_run_records_are_replaced_whole_and_listed_by_lease(storage: Storage) -> None:
    write_run(storage, SECOND, {"run_id": SECOND, "done": 1, "generation": 7})
    write_run(storage, FIRST, {"run_id": FIRST, "done": 0})
    write_run(storage, FIRST, {"run_id": FIRST, "done": 7})
    write_run(storage, THIRD, {"run_id": THIRD, "done": 2, "generation": 8})
    found = [(run["run_id"], run["done"]) for run in read_runs(storage)]
    assert found == [(FIRST, 7), (SECOND, 1), (THIRD, 2)]


def test_what_is_no_record_of_ours_is_left_out(
    storage: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    write_run(storage, FIRST, {"run_id": FIRST, "done": 1})
    storage.put_many(
        {
            "runs/notes.json": b"not even JSON",
            "runs/list.json": b"[1, 2]",
            "runs/mine.json": json.dumps({"run_id": "mine"}).encode(),
            "runs/todo.txt": b"",
            f"runs/{SECOND}.json": b"{torn",
            f"runs/{THIRD}.json": json.dumps({"run_id": "another"}).encode(),
        }
    )
    assert [run["run_id"] for run in read_runs(storage)] == [FIRST]
    ours = [r.getMessage() for r in caplog.records if r.name == "pipeline.ledger.runs"]
    assert len(ours) == 2
    assert all("is not the record of a run" in text for text in ours)
