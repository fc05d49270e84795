"""The ledger: parts decide what is done; dead letters stand until their row succeeds."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import ledger
from pipeline.ledger import (
    DoneSet,
    SchemaError,
    UnreadablePartError,
    clip_schema,
    list_parts,
    read_clips,
    read_dead_letters,
    write_clip_part,
)
from pipeline.ledger.parts import READ_WHOLE_BYTES, publish_part
from pipeline.storage import Storage, StorageError, open_storage
from tests.faults import fault_proxy
from tests.pipeline.outputs import (
    RUN,
    TORN,
    audio_of,
    clip,
    commit,
    committed_ids,
    fail,
    hex_id,
    letter,
)
from tests.s3 import S3Server

NO_EXTRAS = pa.schema([])


@pytest.fixture
def storage(output_root: str) -> Storage:
    return open_storage(output_root)


@pytest.fixture
def local(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path / "out"))


# --- what is done


def test_an_empty_output_has_nothing_done(storage: Storage) -> None:
    done = committed_ids(storage)
    assert len(done) == 0
    assert not done.contains(hex_id("a"))
    assert not done.has_letter(hex_id("row a"))
    assert read_clips(storage).num_rows == read_dead_letters(storage).num_rows == 0


def test_a_clip_is_done_when_a_part_names_it(storage: Storage) -> None:
    path = commit(storage, [clip("a"), clip("b")], 0)
    commit(storage, [clip("c")], 1, replica="bbbbbb")
    storage.put("audio/ff/unnamed.flac", b"audio that no part names is not done")

    assert path == f"clips/part-{RUN}-aaaaaa-000000.parquet"
    done = committed_ids(storage)
    assert len(done) == 3
    names = ["a", "x", "c", "b"]
    assert done.contains_many([hex_id(name) for name in names]).tolist() == [
        True,
        False,
        True,
        True,
    ]
    assert done.contains(hex_id("a"))
    assert set(read_clips(storage, ["id"])["id"].to_pylist()) == {"a", "b", "c"}


def test_a_part_name_that_another_writer_took_is_an_error(storage: Storage) -> None:
    commit(storage, [clip("a")], 0)
    with pytest.raises(StorageError, match="written by somebody else"):
        commit(storage, [clip("b")], 0)
    assert read_clips(storage, ["id"])["id"].to_pylist() == ["a"]


@pytest.mark.s3
def test_a_commit_whose_answer_is_lost_counts_once(s3: S3Server) -> None:
    with fault_proxy(s3.endpoint) as proxy:
        storage = open_storage(s3.bucket(), {"endpoint_url": proxy.endpoint})
        proxy.inject("drop_response", "PUT", "clips/")
        commit(storage, [clip("a")], 0)
        assert len(committed_ids(storage)) == len(list_parts(storage)) == 1


def test_a_part_cannot_commit_a_clip_twice(local: Storage) -> None:
    with pytest.raises(ValueError, match="twice"):
        commit(local, [clip("a"), clip("a")], 0)


def test_a_missing_column_or_null_is_refused_before_anything_is_written(local: Storage) -> None:
    table = pa.Table.from_pylist([clip("a", model=None)], clip_schema(NO_EXTRAS, "files"))
    with pytest.raises(SchemaError, match="model"):
        write_clip_part(local, table, RUN, "aaaaaa", 0)
    with pytest.raises(SchemaError, match="prompt"):
        write_clip_part(local, table.drop_columns(["prompt"]), RUN, "aaaaaa", 0)
    assert list_parts(local) == []


def test_an_unreadable_part_is_named_with_the_way_out(storage: Storage) -> None:
    commit(storage, [clip("a")], 0)
    storage.put(f"clips/{TORN}", b"PAR1 torn")
    with pytest.raises(UnreadablePartError, match=rf"{TORN}.*verify"):
        committed_ids(storage)


def test_ten_thousand_ids_are_found_exactly() -> None:
    ids = [hex_id(i) for i in range(10_000)] + ["00" * 16, "ff" * 15 + "00", "ff" * 16]
    done = DoneSet(np.unique(ledger.pack_ids(ids[::2])), ledger.pack_ids([]))
    assert done.contains_many(ids).tolist() == [i % 2 == 0 for i in range(len(ids))]
    again = pickle.loads(pickle.dumps(done))
    assert again.contains(ids[0])
    assert not again.contains(ids[1])
    with pytest.raises(ValueError, match="32 hex digits"):
        done.contains("not-an-id")


@pytest.mark.s3
def test_resume_reads_columns_not_audio(s3: S3Server) -> None:
    """A part with audio inside is tens of megabytes; its ids are a few kilobytes."""
    noise = np.random.default_rng(0).bytes(3 * READ_WHOLE_BYTES)
    with fault_proxy(s3.endpoint) as proxy:
        storage = open_storage(s3.bucket(), {"endpoint_url": proxy.endpoint})
        rows = [clip(i, audio={"bytes": noise, "path": f"{i}.flac"}) for i in range(3)]
        commit(storage, rows, 0, mode="parquet")
        fail(storage, [letter("x")], 0)  # so that row_key and created_at are needed too
        before = proxy.sent_bytes
        assert len(committed_ids(storage)) == 3
        assert proxy.sent_bytes - before < READ_WHOLE_BYTES / 4


# --- dead letters


def test_a_dead_letter_stands_until_its_row_succeeds_later(storage: Storage) -> None:
    fail(storage, [letter("a", 10), letter("b", 10), letter("c", 10)], 0)
    commit(storage, [clip("a1", 20, row="a"), clip("b1", 5, row="b")], 0)

    done = committed_ids(storage)
    rows = [hex_id(f"row {name}") for name in "abcd"]
    assert done.has_letters(rows).tolist() == [False, True, True, False]
    assert done.has_letter(rows[1])
    standing = read_dead_letters(storage)["row_key"].to_pylist()
    assert sorted(standing) == sorted(rows[1:3])
    assert read_dead_letters(storage, standing=False).num_rows == 3


def test_of_several_letters_the_latest_speaks(storage: Storage) -> None:
    fail(storage, [letter("a", 10, message="first")], 0)
    fail(storage, [letter("a", 30, message="third")], 1)
    fail(storage, [letter("a", 20, message="second")], 2)
    assert read_dead_letters(storage)["message"].to_pylist() == ["third"]
    commit(storage, [clip("a1", 25, row="a")], 0)  # between the second and the third failure
    assert committed_ids(storage).has_letter(hex_id("row a"))
    commit(storage, [clip("a2", 35, row="a")], 1)
    assert not committed_ids(storage).has_letter(hex_id("row a"))
    assert read_dead_letters(storage).num_rows == 0


# --- parts that are replaced


def test_parts_replaced_by_a_merged_part_do_not_count(storage: Storage) -> None:
    """A compaction that was killed before it removed them must not double a clip."""
    old = [commit(storage, [clip(name)], seq) for seq, name in enumerate("ab")]
    untouched = commit(storage, [clip("c")], 2)
    table = read_clips(storage).slice(0, 2)
    merged = f"clips/part-{RUN}-merged-000000.parquet"
    publish_part(storage, merged, table, table.schema, [Path(path).name for path in old])

    assert len(storage.list("clips")) == 4
    assert [info.path for info in list_parts(storage)] == [untouched, merged]
    assert sorted(read_clips(storage)["id"].to_pylist()) == ["a", "b", "c"]


# --- the dataset


def test_clips_are_an_ordinary_dataset(local: Storage, tmp_path: Path) -> None:
    """pyarrow, DuckDB, pandas and `datasets` read `clips/` as it is."""
    duckdb = pytest.importorskip("duckdb")
    datasets = pytest.importorskip("datasets")
    rows = [clip(name, audio={"bytes": audio_of(hex_id(name)), "path": None}) for name in "ab"]
    commit(local, rows, 0, mode="parquet")
    folder = tmp_path / "out/clips"
    assert pq.read_table(folder).num_rows == 2
    query = f"select count(*), min(sample_rate_hz) from '{folder}/*.parquet'"
    assert duckdb.sql(query).fetchall() == [(2, 1)]
    files = [str(path) for path in folder.glob("*.parquet")]
    loaded = datasets.load_dataset(
        "parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache")
    )
    assert isinstance(loaded.features["audio"], datasets.Audio)


def test_names_of_runs_and_replicas_are_unique() -> None:
    assert re.fullmatch(r"\d{8}T\d{6}-[0-9a-f]{6}", ledger.new_run_id())
    assert len({ledger.new_replica_id() for _ in range(100)}) > 95
