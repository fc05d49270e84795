"""The columns of an output: later manifests may add some; types that stand are fixed."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.ledger import SchemaError, check_schema, list_parts, read_clips, standing_schema
from pipeline.ledger.lease import Lease
from pipeline.ledger.maintain import compact
from pipeline.ledger.parts import reading
from pipeline.ledger.schema import VERSION_KEY, encode_part
from pipeline.report import build_report
from pipeline.storage import Storage, open_storage
from tests.pipeline.outputs import clip, commit, hex_id

LATER = "20260201T000000-abcdef"


@pytest.fixture
def storage(output_root: str) -> Storage:
    return open_storage(output_root)


@pytest.fixture
def local(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path / "out"))


def grow(storage: Storage) -> pa.Schema:
    """Two dated manifests, the second with a new column and without an old one."""
    first = pa.schema([("genre", pa.string()), ("bpm", pa.int64())])
    commit(storage, [clip("a", genre="jazz", bpm=90), clip("b", genre="folk")], 0, extras=first)
    schema = check_schema(storage, pa.schema([("bpm", pa.int64()), ("mood", pa.string())]), "files")
    extras = pa.schema([field for field in schema if field.name in ("genre", "bpm", "mood")])
    commit(storage, [clip("c", bpm=80, mood="calm")], 0, run_id=LATER, extras=extras)
    return schema


def test_the_first_run_fixes_the_types_of_its_columns(storage: Storage) -> None:
    extras = pa.schema([("genre", pa.large_string()), ("bpm", pa.int64())])
    schema = check_schema(storage, extras, "files")
    assert schema.field("genre").type == pa.string()
    commit(storage, [clip("a", genre="jazz", bpm=90)], 0, extras=extras)

    assert check_schema(storage, extras, "files").equals(schema)
    fewer = pa.schema([("bpm", pa.int64())])
    assert check_schema(storage, fewer, "files").names == schema.names
    with pytest.raises(SchemaError, match="--audio parquet"):
        check_schema(storage, extras, "parquet")
    all_null = pa.schema([("bpm", pa.null())])
    assert check_schema(storage, all_null, "files").field("bpm").type == pa.int64()


def test_a_changed_type_is_named_with_both_types_and_the_ways_out(storage: Storage) -> None:
    commit(storage, [clip("a", bpm=90)], 0, extras=pa.schema([("bpm", pa.int64())]))
    with pytest.raises(SchemaError) as refused:
        check_schema(storage, pa.schema([("bpm", pa.float64())]), "files")
    said = str(refused.value)
    assert "the extra column bpm is double in the manifest, int64 in" in said
    for way_out in ("cast it to int64", "give it a new name", "a new --output"):
        assert way_out in said


def test_a_new_column_begins_with_null(storage: Storage) -> None:
    schema = grow(storage)
    assert schema.names[-3:] == ["genre", "bpm", "mood"]
    standing = standing_schema(storage)
    assert standing is not None
    assert standing.names == schema.names

    table = read_clips(storage).sort_by("id")
    assert table["mood"].to_pylist() == [None, None, "calm"]
    assert table["genre"].to_pylist() == ["jazz", "folk", None]
    named = read_clips(storage, ["id", "mood", "bpm"]).sort_by("id")
    assert named.column_names == ["id", "mood", "bpm"]
    assert named["mood"].to_pylist() == [None, None, "calm"]
    with pytest.raises(KeyError, match="tempo"):
        read_clips(storage, ["id", "tempo"])


def test_the_third_manifest_sees_the_columns_of_both_earlier_ones(storage: Storage) -> None:
    grow(storage)
    schema = check_schema(storage, pa.schema([("key", pa.string())]), "files")
    assert schema.names[-4:] == ["genre", "bpm", "mood", "key"]
    with pytest.raises(SchemaError, match="mood is int64 in the manifest, string in"):
        check_schema(storage, pa.schema([("mood", pa.int64())]), "files")


@pytest.mark.parametrize("target_rows", [1, 50_000])
def test_compact_gives_all_parts_the_same_columns(
    local: Storage, tmp_path: Path, target_rows: int
) -> None:
    """Parts that are not merged too: other readers go by the first file."""
    schema = grow(local)
    before = read_clips(local).sort_by("id").select(schema.names)
    with Lease.acquire(local) as lease:
        report = compact(local, lease, target_rows=target_rows)
        again = compact(local, lease, target_rows=target_rows)

    assert len(report.removed) == (1 if target_rows == 1 else 2)
    assert again.removed == ()
    for info in list_parts(local):
        with reading(local, info) as part:
            assert part.schema_arrow.names == schema.names
    assert pq.read_table(tmp_path / "out/clips").sort_by("id").equals(before)
    assert read_clips(local, ["clip_id"]).num_rows == 3
    assert hex_id("c") in read_clips(local, ["clip_id"])["clip_id"].to_pylist()


def test_parts_of_two_outputs_in_one_folder_are_refused(local: Storage) -> None:
    commit(local, [clip("a", bpm=90)], 0, extras=pa.schema([("bpm", pa.int64())]))
    other = pa.schema([("bpm", pa.string())])
    commit(local, [clip("b", bpm="fast")], 0, run_id=LATER, extras=other)
    with pytest.raises(SchemaError, match="bpm is int64 and others in which it is string"):
        check_schema(local, other, "files")


def test_a_column_of_ours_that_came_later_is_null_in_earlier_parts(
    local: Storage, tmp_path: Path
) -> None:
    """Clips that were made before this version had `bits_depend_on`."""
    commit(local, [clip("a")], 0)
    (part,) = list_parts(local, "clips")
    with reading(local, part) as opened:
        table = opened.read().drop_columns("bits_depend_on")
    local.put(part.path, encode_part(table, table.schema, "token"))
    commit(local, [clip("b", bits_depend_on="slots")], 0, run_id=LATER)

    assert check_schema(local, pa.schema([]), "files").field("bits_depend_on").nullable
    rows = read_clips(local).sort_by("id")
    assert rows["bits_depend_on"].to_pylist() == [None, "slots"]
    with Lease.acquire(local) as lease:
        compact(local, lease)
    assert pq.read_table(tmp_path / "out/clips").sort_by("id")["bits_depend_on"].to_pylist() == [
        None,
        "slots",
    ]


def test_an_output_of_another_version_is_refused_with_the_way_out(local: Storage) -> None:
    commit(local, [clip("a")], 0)
    (part,) = list_parts(local, "clips")
    with reading(local, part) as opened:
        table = opened.read()
    older = table.schema.with_metadata({**table.schema.metadata, VERSION_KEY: b"1"})
    local.put(part.path, encode_part(table, older, "token"))

    for use in (
        lambda: check_schema(local, pa.schema([]), "files"),
        lambda: build_report(local),
    ):
        with pytest.raises(SchemaError, match=r"schema version 1, .*; write to a new --output"):
            use()


def test_extra_columns_may_not_take_our_names(local: Storage) -> None:
    with pytest.raises(SchemaError, match=r"\['audio', 'model'\].*rename"):
        check_schema(local, pa.schema([("model", pa.string()), ("audio", pa.string())]), "files")
