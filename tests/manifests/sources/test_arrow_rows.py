"""Parquet and Arrow: any type of an extra column reaches the manifest as it is."""

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from manifests.build import build
from manifests.reader import Manifest, ManifestError
from manifests.sources.options import reading
from tests.manifests.sources.read import notes_of, raws, rows_of

LAST = pa.array([253402300799 * 10**6] * 3, pa.timestamp("us", tz="Europe/Berlin"))
TABLE = pa.table(
    {
        "caption": ["a", "b", "c"],
        "seconds": pa.array([2.0, None, 4.5], pa.float32()),
        "last": LAST,  # no Python value can hold it in every zone
        "price": pa.array([Decimal("1.50"), None, Decimal("2.25")]),
        "tags": [["x"], [], None],
        "kind": pa.array(["k", "k", None]).dictionary_encode(),
        "meta": [{"k": 1}, None, {"k": 2}],
        "raw": pa.array([b"\0\xff", None, b""], pa.large_binary()),
    }
)
MAP = reading(columns=["prompt=caption", "duration_s=seconds"])


def written(path: Path, table: pa.Table = TABLE) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=2)
    elif path.suffix == ".feather":
        feather.write_feather(table, path)
    else:
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
    return path


@pytest.mark.parametrize("name", ["in.parquet", "in.feather", "in.arrow"])
def test_columns_are_mapped_and_the_others_pass_untouched(tmp_path: Path, name: str) -> None:
    out = tmp_path / "out" / "m.parquet"
    summary = build(
        str(written(tmp_path / name)), str(out), reading=MAP, extra_columns=["tags", "kind"]
    )
    assert (summary.issues, summary.column_faults, summary.n_rows) == ((), (), 3)
    made = pq.read_table(out)
    assert made["prompt"].to_pylist() == ["a", "b", "c"]
    assert made["duration_s"].to_pylist() == [2.0, None, 4.5]
    assert "caption" not in made.schema.names
    assert made["last"].type == LAST.type
    assert made["last"].combine_chunks().cast(pa.int64()).to_pylist() == [253402300799 * 10**6] * 3
    for column in ("price", "tags", "meta"):
        assert made[column].type == TABLE[column].type
        assert made[column].to_pylist() == TABLE[column].to_pylist()
    assert made["kind"].to_pylist() == ["k", "k", None]
    assert made["raw"].to_pylist() == [b"\0\xff", None, b""]
    assert Manifest.open(str(out), extra_columns=["tags", "kind"]).n_rows == 3


def test_what_is_mapped_is_said(tmp_path: Path) -> None:
    path = written(tmp_path / "in.parquet")
    how = reading(columns=["prompt=caption", "seed=7"])
    assert notes_of(path, how) == ["prompt is column 'caption', seed is 7 in every row"]
    assert [raw["seed"] for raw in raws(rows_of(path, reading=how))] == [7, 7, 7]


def test_types_that_files_widen(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    written(folder / "a.parquet", pa.table({"prompt": ["a"], "n": pa.array([1], pa.int32())}))
    written(folder / "b.parquet", pa.table({"prompt": ["b"], "n": pa.array([2.5])}))
    build(str(folder), str(tmp_path / "m.parquet"))
    assert pq.read_table(tmp_path / "m.parquet")["n"].to_pylist() == [1.0, 2.5]


def test_types_that_files_can_not_share_are_a_fault_of_the_column(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    day = datetime(2026, 1, 31, tzinfo=UTC)
    written(folder / "a.parquet", pa.table({"prompt": ["a"], "n": [day]}))
    written(folder / "b.parquet", pa.table({"prompt": ["b"], "n": ["2026"]}))
    summary = build(str(folder), str(tmp_path / "m.parquet"))
    assert summary.out_uri is None
    (fault,) = summary.column_faults
    assert "'n' has no single type: timestamp" in fault
    assert "before row 1 of b.parquet, there '2026'" in fault


@pytest.mark.parametrize("name", ["in.parquet", "in.arrow"])
def test_text_in_a_column_of_numbers_is_one_fault(tmp_path: Path, name: str) -> None:
    table = pa.table({"prompt": ["a", "b"], "seconds": ["1", "2"]})
    how = reading(columns=["duration_s=seconds"])
    summary = build(str(written(tmp_path / name, table)), str(tmp_path / "m.parquet"), reading=how)
    assert summary.out_uri is None
    assert f"'duration_s' is string in {name}, must be numbers" in summary.column_faults[0]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("m.parquet", b"", "is empty .0 bytes."),
        ("m.parquet", b"id,prompt\na,b\n", "no sound Parquet file"),
        ("m.arrow", b"id,prompt\na,b\nc,d\n", "is neither an Arrow file nor a stream"),
        ("m.arrow", b"", "is neither an Arrow file nor a stream"),
    ],
)
def test_what_is_no_file_of_columns(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    with pytest.raises(ManifestError, match=words):
        rows_of(tmp_path / name, content)


def test_a_column_that_stands_there_twice(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], ["prompt", "prompt"])
    with pytest.raises(ManifestError, match="'prompt' stands there more than once"):
        rows_of(written(tmp_path / "m.arrow", table))


def test_embedded_audio_is_kept_and_cuts_row_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("manifests.build.MOST_AUDIO_BYTES", 100)
    sounds = [{"bytes": bytes([n]) * 60, "path": None} for n in range(5)]
    path = written(tmp_path / "in.parquet", pa.table({"audio": sounds}))
    out = tmp_path / "m.parquet"
    build(str(path), str(out), reading=reading(columns=["melody_audio=audio"]))
    assert pq.read_table(out)["melody_audio"].to_pylist() == [s["bytes"] for s in sounds]
    assert pq.read_metadata(out).num_row_groups == 3
