"""What the server answers about clips."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterator
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline import ledger
from pipeline.ledger.clip_row import ScoreRow
from pipeline.ledger.lease import Lease
from pipeline.ledger.maintain import compact, gc
from pipeline.ledger.scores import write_score_part
from pipeline.ledger.verify import verify
from pipeline.storage import Storage, open_storage
from tests.pipeline.dataset.browse.servers import Client, browsing, commit
from tests.pipeline.report.outputs import (
    RUN,
    Row,
    clip_row,
    letter,
    run_record,
    some_clips,
    tune,
    write_output,
)

SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(2)>"
ODD = 'a"b; DROP TABLE clips; --'
TUNE = tune(1, 0.3)


def clip(number: int, **changes: Any) -> tuple[Row, bytes]:
    return clip_row(number, TUNE, **changes)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Clips whose prompts, measures and extra columns differ."""
    folder = tmp_path_factory.mktemp("app")
    storage = write_output(folder, [], [letter(1), letter(2, message="out of memory")])
    extras = pa.schema([("genre", pa.string()), (ODD, pa.int64()), ("ID", pa.string()),
                        ("tags", pa.list_(pa.string())), ("raw", pa.binary())])  # fmt: skip
    commit(
        storage,
        [
            clip(0, prompt="Slow Flute over strings", genre="folk", loudness_lufs=-20.0,
                 tags=["a", "b"], raw=b"\0", **{ODD: 2**60, "ID": "upper"}),
            clip(1, prompt="fast flute", genre="jazz", loudness_lufs=-10.0, **{ODD: 7}),
            clip(2, prompt=SCRIPT, genre="", loudness_lufs=None, loudness_reason="silence"),
            clip(3, prompt=None, genre="100% o'clock", loudness_lufs=-15.0),
            clip(4, prompt="bell", id="choir", take=1, loudness_lufs=-12.0),
            clip(5, prompt="bell", id="choir", take=0, loudness_lufs=-14.0),
        ],
        extras=extras,
    )  # fmt: skip
    with browsing(storage, folder) as opened:
        yield opened


def where(column: str, op: str, value: str | None = None) -> dict[str, Any]:
    return {"filters": [{"column": column, "op": op, "value": value}]}


def test_the_newest_come_first_and_pages_follow_one_another(client: Client) -> None:
    newest = ["choir", "choir", "row-0003", "row-0002", "row-0001", "row-0000"]
    assert client.ids() == newest
    assert client.ids(limit=2, offset=2) == newest[2:4]
    assert client.clips(limit=2)["n_found"] == 6


@pytest.mark.parametrize(
    ("search", "found"),
    [("FLUTE", 2), ("flute slow", 1), ("  ", 6), ("row-0003", 1), ("<script>", 1), ("%", 0),
     ("' OR 1=1 --", 0), ("fl_te", 0), ("choir", 2)],
)  # fmt: skip
def test_search_finds_all_words_in_prompts_and_ids(client: Client, search: str, found: int) -> None:
    assert client.clips(search=search)["n_found"] == found


@pytest.mark.parametrize(
    ("column", "op", "value", "found"),
    [
        ("genre", "is", "folk", ["row-0000"]),
        ("genre", "contains", "O'CLOCK", ["row-0003"]),
        ("genre", "contains", "%", ["row-0003"]),
        ("genre", "is", "x' OR '1'='1", []),
        ("genre", "filled", None, ["row-0000", "row-0001", "row-0003"]),
        ("loudness_lufs", "at_least", "-12", ["choir", "row-0001"]),
        ("loudness_lufs", "at_most", "−19.5", ["row-0000"]),
        ("loudness_lufs", "empty", None, ["row-0002"]),
        ("take", "is", "1", ["choir"]),
        ("use_sampling", "is", "false", []),
        ("created_at", "at_most", "2026-01-02T03:04:06", ["row-0000"]),
        ("created_at", "at_least", "2026-01-02T04:04:14+01:00", ["choir"]),
        (ODD, "is", "7", ["row-0001"]),
        ("ID", "is", "upper", ["row-0000"]),
        ("tags", "contains", '"b"', ["row-0000"]),
        (":rating", "filled", None, []),
    ],
)
def test_filters_go_by_any_column(
    client: Client, column: str, op: str, value: str | None, found: list[str]
) -> None:
    assert sorted(set(client.ids(**where(column, op, value)))) == found


@pytest.mark.parametrize("column", ["loudness_lufs", "prompt", "genre", "take", ODD, ":rating",
                                    "created_at", "true_peak_dbtp"])  # fmt: skip
def test_any_column_sorts_and_empty_values_come_last(client: Client, column: str) -> None:
    for descending in (False, True):
        clips = client.clips(sort=column, descending=descending, columns=[column])["clips"]
        given = [clip[column] for clip in clips if clip[column] is not None]
        assert [clip[column] for clip in clips][: len(given)] == given
        if column != ODD:  # large numbers travel as text
            assert given == sorted(given, reverse=descending)


@pytest.mark.parametrize(
    "query",
    [
        where("c0", "is", "x"),
        where("nothing", "is", "x"),
        where('prompt" OR 1=1 --', "is", "x"),
        where("raw", "filled"),
        where("part", "is", "0"),
        where("loudness_lufs", "at_least", "1; DROP TABLE clips"),
        where("use_sampling", "is", "maybe"),
        where("created_at", "at_least", "yesterday"),
        where("prompt", "like", "x"),
        where("prompt", "is"),
        {"sort": "prompt; DROP TABLE clips"},
        {"sort": "(SELECT 1)"},
        {"limit": 100_000},
        {"offset": -1},
        {"unknown": 1},
        {"search": "x" * 2000},
    ],
)
def test_what_is_no_question_is_refused_with_words(client: Client, query: dict[str, Any]) -> None:
    from json import dumps
    from urllib.parse import quote

    answer = client.ask(f"/api/clips?query={quote(dumps(query))}")
    assert answer.status == 400
    assert answer.json["error"]
    assert client.clips()["n_found"] == 6


def test_a_clip_tells_all_its_columns_and_its_takes(client: Client) -> None:
    listed = client.clips(**where("id", "is", "choir"))["clips"]
    found = client.ask(f"/api/clips/{listed[0]['clip_id']}").json
    assert [take["take"] for take in found["takes"]] == [0, 1]
    assert found["clip"]["prompt"] == "bell"
    assert found["clip"]["seed_used"] in (4, 5)
    whole = client.clips(**where("genre", "is", "folk"), columns=["tags", ODD])["clips"][0]
    assert (whole["tags"], whole[ODD]) == ('["a","b"]', str(2**60))
    names = [column["name"] for column in client.ask("/api/about").json["columns"]]
    assert {"prompt", "genre", ODD, ":rating", "loudness_lufs"} <= set(names)
    assert "raw" not in names
    assert "audio" not in names


def test_a_hostile_prompt_stays_text(client: Client) -> None:
    row = client.clips(search="script")["clips"][0]
    assert row["prompt"] == SCRIPT
    answer = client.ask(f"/api/clips/{row['clip_id']}")
    assert answer.headers["content-type"] == "application/json"


def test_frequent_values_are_counted(client: Client) -> None:
    found = client.ask("/api/values?column=genre&prefix=f").json
    assert found == [{"value": "folk", "count": 1}]
    assert client.ask("/api/values?column=%22").status == 400


def test_dead_letters_are_told_with_their_reasons(client: Client) -> None:
    found = client.ask("/api/failed").json
    assert found["n_found"] == 2
    assert {row["id"] for row in found["letters"]} == {"bad-1", "bad-2"}
    some = client.ask("/api/failed?search=MEMORY").json["letters"]
    assert [row["message"] for row in some] == ["out of memory"]
    assert client.ask("/api/failed?offset=x").status == 400


# --- ratings


def test_ratings_stand_in_a_side_table_and_are_exported(tmp_path: Path) -> None:
    storage = write_output(tmp_path / "out", some_clips(3))
    with browsing(storage, tmp_path) as client:
        first, second, third = (each["clip_id"] for each in client.clips()["clips"])
        assert client.rate(first, 5).json["n_rated"] == 1
        assert client.rate(second, 2).status == 200
        assert client.rate(third, 4).status == 200
        assert client.rate(third, None).status == 200
        assert client.ids(**where(":rating", "at_least", "3")) == ["row-0002"]
    with browsing(storage, tmp_path) as client:
        assert client.rate(second, 3).status == 200
        shown = {each["clip_id"]: each[":rating"] for each in client.clips()["clips"]}
        assert shown == {first: 5, second: 3, third: None}
        exported = client.ask("/api/ratings.csv")
    assert exported.headers["content-disposition"] == 'attachment; filename="ratings.csv"'
    rows = [*csv.DictReader(io.StringIO(exported.body.decode()))]
    assert [(row["clip_id"], row["rating"]) for row in rows] == [(second, "3"), (first, "5")]
    assert rows[1]["prompt"] == "tune number 2"
    names = [info.path for info in storage.list("ratings")]
    assert len(names) == 2
    report = verify(storage)
    assert (report.ok, report.n_foreign) == (True, 0)
    with Lease.acquire(storage) as lease:
        gc(storage, lease, min_age_s=0)
    assert [info.path for info in storage.list("ratings")] == names


@pytest.mark.parametrize("rating", [0, 6, -1, 2.5, "5", True, [5], 10**30])
def test_what_is_no_rating_is_refused(client: Client, rating: Any) -> None:
    assert client.rate(client.clips()["clips"][0]["clip_id"], rating).status == 400


def test_only_clips_of_the_output_are_rated(client: Client) -> None:
    assert client.rate("f" * 32, 5).status == 404
    assert client.rate("../../x", 5).status == 400
    assert client.ask("/api/ratings", method="POST", body=b"x" * 20_000).status == 413
    assert client.ask("/api/ratings", method="POST", body=b"no json").status == 400


def test_ratings_of_an_output_that_cannot_be_written_to_stay_on_this_machine(
    tmp_path: Path,
) -> None:
    storage = write_output(tmp_path / "out", some_clips(1))
    (tmp_path / "out" / "ratings").write_bytes(b"in the way")
    for expected in (None, 4):
        with browsing(storage, tmp_path) as client:
            clip_id = client.clips()["clips"][0]["clip_id"]
            assert client.clips()["clips"][0][":rating"] == expected
            told = client.rate(clip_id, 4).json
            assert told["ratings_elsewhere"]
            assert str(tmp_path / "ratings-elsewhere") in told["ratings_in"]


# --- scores


def add_scores(storage: Storage, seq: int, scores: dict[str, float | None], **changes: Any) -> None:
    """A part of `scores/` as the command `score` writes it."""
    told: dict[str, Any] = {field.name: "x" for field in fields(ScoreRow)} | {
        "scorer": "melody", "take": 0, "seed_used": 1, "ruling": None, "kept": None,
        "created_at": datetime.now(UTC)}  # fmt: skip
    rows = [ScoreRow(**(told | {"clip_id": c, "score": s} | changes)) for c, s in scores.items()]
    write_score_part(storage, rows, RUN, "a1b2c3", seq)


def test_scores_that_came_later_sort_and_filter_like_those_of_the_run(tmp_path: Path) -> None:
    storage = write_output(tmp_path / "out", some_clips(3))
    with browsing(storage, tmp_path) as client:
        first, second, third = (each["clip_id"] for each in client.clips()["clips"])
        add_scores(storage, 0, {first: 0.25, second: 0.75, third: None})
        add_scores(storage, 1, {first: 0.1}, created_at=datetime(2026, 1, 1, tzinfo=UTC))
        high = where("score_melody", "at_least", "0.2")
        deadline_s = time.monotonic() + 20
        while not client.ids(**high):
            assert time.monotonic() < deadline_s
        assert client.ids(sort="score_melody", **high) == ["row-0001", "row-0002"]
        assert client.ask(f"/api/clips/{first}").json["clip"]["score_melody"] == 0.25
    with browsing(storage, tmp_path) as client:
        assert client.ids(**where("score_melody", "empty")) == ["row-0000"]
        about = {each["name"]: each for each in client.ask("/api/about").json["columns"]}
    assert about["score_melody"]["label"] == "Score: melody"
    assert about["score_melody"]["group"] == "measure"


# --- while a run goes on


def test_what_a_run_commits_appears(tmp_path: Path) -> None:
    storage = write_output(tmp_path / "out", [], runs=[run_record(state="running")])
    with browsing(storage, tmp_path) as client:
        assert client.clips() | {"run": None} == client.clips() | {"run": None, "n_found": 0}
        commit(storage, [clip(0, genre="a")], 0)
        state = client.wait(lambda state: state["n_clips"] == 1)
        assert state["run"]["state"] == "running"
        commit(storage, [clip(1, mood="b")], 1, extras=pa.schema([("mood", pa.string())]))
        client.wait(lambda state: state["n_clips"] == 2)
        shown = client.clips(columns=["mood", "genre"])["clips"]
        assert [(each["mood"], each["genre"]) for each in shown] == [("b", None), (None, "a")]
        commit(storage, [clip(1), clip(2)], 2)  # one of them stands already
        client.wait(lambda state: state["n_parts"] == 3)
        assert client.clips()["n_found"] == 3
        table = pa.Table.from_pylist([letter(9)], schema=ledger.FAILED_SCHEMA)
        ledger.write_dead_letter_part(storage, table, RUN, "a1b2c3", 0)
        client.wait(lambda state: state["n_failed"] == 1)


def test_compaction_meanwhile_changes_nothing_that_is_seen(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "out"))
    for seq in range(3):
        commit(storage, [clip(2 * seq), clip(2 * seq + 1)], seq, mode="parquet")
    with browsing(storage, tmp_path) as client:
        before = client.clips()["clips"]
        with Lease.acquire(storage) as lease:
            assert compact(storage, lease).n_parts_after == 1
        client.wait(lambda state: state["n_parts"] == 1)
        assert client.clips()["clips"] == before
        for row in before:
            assert client.ask(f"/clips/{row['clip_id']}/audio").body[:4] == b"fLaC"


def test_a_store_that_fails_is_told_and_asked_again(tmp_path: Path) -> None:
    storage = write_output(tmp_path / "out", some_clips(1))
    with browsing(storage, tmp_path) as client:
        broken = tmp_path / "out" / "clips" / f"part-{RUN}-a1b2c3-000001.parquet"
        broken.write_bytes(b"not parquet")
        assert "can't be read as a part" in client.wait(lambda s: bool(s["problem"]))["problem"]
        assert client.clips()["n_found"] == 1
        broken.unlink()
        client.wait(lambda state: state["problem"] is None)
