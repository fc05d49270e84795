"""`manifest build`: text becomes a typed Parquet manifest, or all that is wrong is said."""

import json
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manifests.build import ROWS_PER_GROUP, BuildSummary, build, rebase
from manifests.reader import VERSION_KEY, Manifest, ManifestError
from manifests.schema import parse_row, resolve_uri


def jsonl(path: Path, *rows: dict[str, Any]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def built(tmp_path: Path, *rows: dict[str, Any]) -> tuple[BuildSummary, pa.Table]:
    out = str(tmp_path / "out.parquet")
    summary = build(jsonl(tmp_path / "in.jsonl", *rows), out)
    assert summary.out_uri == out, (summary.issues, summary.column_faults)
    return summary, pq.read_table(out)


def refused(tmp_path: Path, *rows: dict[str, Any], **options: Any) -> BuildSummary:
    summary = build(jsonl(tmp_path / "in.jsonl", *rows), str(tmp_path / "no.parquet"), **options)
    assert summary.out_uri is None
    assert not (tmp_path / "no.parquet").exists()
    return summary


def test_columns_have_the_schemas_types_and_extras_their_own(tmp_path: Path) -> None:
    summary, table = built(
        tmp_path,
        {"prompt": "a", "duration_s": 3, "seed": 1, "bpm": 90, "genre": None, "labels": ["x"]},
        {"prompt": "b", "takes": 2, "use_sampling": False, "bpm": 90.5, "meta": {"k": 1}},
    )
    assert (summary.n_rows, summary.n_clips) == (2, 3)
    assert summary.extra_columns == ("bpm", "genre", "labels", "meta")
    assert table.schema.remove_metadata() == pa.schema(
        {
            "id": pa.string(),
            "prompt": pa.string(),
            "duration_s": pa.float64(),
            "seed": pa.int64(),
            "takes": pa.int64(),
            "use_sampling": pa.bool_(),
            "bpm": pa.float64(),
            "genre": pa.string(),
            "labels": pa.list_(pa.string()),
            "meta": pa.struct({"k": pa.int64()}),
        }
    )
    assert table.schema.metadata[VERSION_KEY] == b"1"
    assert table["bpm"].to_pylist() == [90.0, 90.5]
    assert table["takes"].to_pylist() == [None, 2]  # null: `--takes` decides


def test_csv_extras_get_the_narrowest_type_that_fits_all_values(tmp_path: Path) -> None:
    text = tmp_path / "in.csv"
    text.write_text("prompt,n,x,flag,zip,mixed,gap\na,1,1,true,01234,1,\nb,,2.5,False,99999,yes,\n")
    summary = build(str(text), str(tmp_path / "out.parquet"))
    assert summary.issues == ()
    table = pq.read_table(tmp_path / "out.parquet").drop_columns(["id", "prompt"])
    assert table.to_pydict() == {
        "n": [1, None],
        "x": [1.0, 2.5],
        "flag": [True, False],
        "zip": ["01234", "99999"],
        "mixed": ["1", "yes"],
        "gap": [None, None],
    }


def test_rows_without_an_id_get_the_hash_that_the_job_would_give_them(tmp_path: Path) -> None:
    _, table = built(tmp_path, {"prompt": "a", "cfg_coef": 1}, {"id": "b", "prompt": "b"})
    expected, _ = parse_row({"prompt": "a", "cfg_coef": 1.0}, source="", row=0)
    assert expected is not None
    assert table["id"].to_pylist() == [expected.id, "b"]


def test_ids_do_not_depend_on_where_the_manifest_is_built(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "in" / "m.jsonl", {"melody_uri": "a.wav"})
    build(source, str(tmp_path / "in" / "m.parquet"))
    build(source, str(tmp_path / "other" / "deep" / "m.parquet"))
    tables = [
        pq.read_table(tmp_path / where).to_pylist()[0]
        for where in ("in/m.parquet", "other/deep/m.parquet")
    ]
    assert tables[0]["id"] == tables[1]["id"]
    assert [table["melody_uri"] for table in tables] == ["a.wav", "../../in/a.wav"]


@pytest.mark.parametrize(
    ("uri", "source", "out", "written"),
    [
        ("a.wav", "/d/m.jsonl", "/d/m.parquet", "a.wav"),
        ("x/a.wav", "/d/m.jsonl", "/d/out/m.parquet", "../x/a.wav"),
        ("/abs/a.wav", "/d/m.jsonl", "/d/out/m.parquet", "/abs/a.wav"),
        ("s3://b/a.wav", "/d/m.jsonl", "/d/out/m.parquet", "s3://b/a.wav"),
        ("a.wav", "/d/m.jsonl", "s3://b/m.parquet", "/d/a.wav"),
        ("a.wav", "s3://b/in/m.jsonl", "s3://b/out/m.parquet", "../in/a.wav"),
        ("a.wav", "s3://b/in/m.jsonl", "s3://c/out/m.parquet", "s3://b/in/a.wav"),
        ("a.wav", "s3://b/m.jsonl", "/d/m.parquet", "s3://b/a.wav"),
    ],
)
def test_references_are_rewritten_so_that_they_resolve_from_the_output(
    uri: str, source: str, out: str, written: str
) -> None:
    assert rebase(uri, source, out) == written
    assert resolve_uri(written, out) == resolve_uri(uri, source)


def test_everything_that_is_wrong_is_reported_and_nothing_is_written(tmp_path: Path) -> None:
    summary = refused(
        tmp_path,
        {"id": "a", "prompt": "x", "duration_s": -1, "seed": "7"},
        {"id": "b"},
        {"id": "c", "prompt": "x", "promt": "x", "bpm": 1},
        {"id": "c", "prompt": "y", "bpm": "fast"},
        {"id": "d", "prompt": "fine"},
    )
    assert [(issue.row, issue.line, issue.column) for issue in summary.issues] == [
        (0, 1, "duration_s"),
        (0, 1, "seed"),
        (1, 2, "prompt"),
        (3, 4, "id"),
    ]
    assert "is also the id of row 2" in summary.issues[3].message
    assert len(summary.column_faults) == 2
    assert "'promt' looks like 'prompt'" in summary.column_faults[0]
    assert (
        "'bpm' has no single type: int64 before line 4 of in.jsonl, there 'fast'"
        in summary.column_faults[1]
    )


@pytest.mark.parametrize("value", ["\ud800", 2**70, [1, "a"]])
def test_an_extra_value_that_arrow_cannot_hold_is_a_fault(tmp_path: Path, value: Any) -> None:
    (fault,) = refused(tmp_path, {"prompt": "a", "odd": value}).column_faults
    assert "'odd' has no single type" in fault
    assert fault.isprintable()


@pytest.mark.parametrize("name", ["\ud800", "a\nb"])
def test_a_column_name_that_can_not_be_written_is_a_fault(tmp_path: Path, name: str) -> None:
    (fault,) = refused(tmp_path, {"prompt": "a", name: 1}).column_faults
    assert "control characters in its name" in fault
    assert fault.isprintable()


def test_listed_and_reserved_columns(tmp_path: Path) -> None:
    row = {"prompt": "a", "tags": "x", "clip_id": "y"}
    assert "'tags' looks like 'takes'" in refused(tmp_path, row).column_faults[0]
    faults = refused(tmp_path, row, extra_columns=["tags"], reserved=["clip_id"]).column_faults
    assert ["clip_id" in fault for fault in faults] == [True]


def test_large_manifests_are_cut_into_row_groups(tmp_path: Path) -> None:
    text = tmp_path / "in.csv"
    n_rows = ROWS_PER_GROUP + 5
    text.write_text("id,prompt\n" + "".join(f"{i},p\n" for i in range(n_rows)))
    build(str(text), str(tmp_path / "out.parquet"))
    manifest = Manifest.open(str(tmp_path / "out.parquet"))
    assert [row_group.n_rows for row_group in manifest.row_groups] == [ROWS_PER_GROUP, 5]


def test_a_failed_write_leaves_the_old_manifest_and_no_litter(tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    out.mkdir()  # a folder can't be replaced by a file
    with pytest.raises(ManifestError, match=r"out.parquet: can't be written"):
        build(jsonl(tmp_path / "in.jsonl", {"prompt": "a"}), str(out))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.parquet"]
    with pytest.raises(ManifestError, match=r"must end with \.parquet"):
        build("out.parquet", "in.jsonl")


def test_a_build_replaces_an_older_manifest(tmp_path: Path) -> None:
    built(tmp_path, {"prompt": "old"})
    _, table = built(tmp_path, {"prompt": "new"})
    assert table["prompt"].to_pylist() == ["new"]


def test_a_store_without_rename_gets_the_whole_file_at_once(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    source = jsonl(tmp_path / "in.jsonl", {"prompt": "a", "melody_uri": "a.wav"})
    build(source, "memory:///built/m.parquet")
    try:
        manifest = Manifest.open("memory:///built/m.parquet")
        ((_, batch),) = manifest.read_row_group(manifest.row_groups[0])
        assert batch["melody_uri"].to_pylist() == [str(tmp_path / "a.wav")]
    finally:
        memory.rm("/built", recursive=True)
