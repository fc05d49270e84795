"""Parquet manifests: many files and row groups are one table with global row numbers."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manifests.reader import VERSION_KEY, Manifest, ManifestError
from manifests.schema import parse_row
from tests.s3 import S3Server


def write(path: Path, columns: dict[str, Any], rows_per_group: int = 1000) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=rows_per_group)
    return str(path)


def rows_of(manifest: Manifest, **how: Any) -> list[tuple[int, dict[str, Any]]]:
    return [
        (first + i, row)
        for row_group in manifest.row_groups
        for first, batch in manifest.read_row_group(row_group, **how)
        for i, row in enumerate(batch.to_pylist())
    ]


def test_rows_are_numbered_over_files_and_row_groups_in_order_of_names(tmp_path: Path) -> None:
    prompts = [f"p{i}" for i in range(23)]
    write(tmp_path / "b.parquet", {"prompt": prompts[10:20]}, 4)
    write(tmp_path / "a.parquet", {"prompt": prompts[:10]}, 3)
    write(tmp_path / "sub" / "c.parquet", {"prompt": prompts[20:]})
    write(tmp_path / "_temporary" / "x.parquet", {"prompt": ["no"]})
    (tmp_path / ".part.parquet").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("no")
    manifest = Manifest.open(str(tmp_path))
    assert manifest.n_rows == 23
    assert [(u.source, u.row_group, u.first_row, u.n_rows) for u in manifest.row_groups] == [
        ("a.parquet", 0, 0, 3),
        ("a.parquet", 1, 3, 3),
        ("a.parquet", 2, 6, 3),
        ("a.parquet", 3, 9, 1),
        ("b.parquet", 0, 10, 4),
        ("b.parquet", 1, 14, 4),
        ("b.parquet", 2, 18, 2),
        ("sub/c.parquet", 0, 20, 3),
    ]
    assert rows_of(manifest, batch_rows=2) == [(i, {"prompt": p}) for i, p in enumerate(prompts)]


def test_a_glob_takes_the_files_that_match(tmp_path: Path) -> None:
    for name in ("a1", "a2", "b1"):
        write(tmp_path / f"{name}.parquet", {"prompt": [name]})
    manifest = Manifest.open(f"{tmp_path}/a*.parquet")
    assert [row["prompt"] for _, row in rows_of(manifest)] == ["a1", "a2"]
    odd = write(tmp_path / "odd[1].parquet", {"prompt": ["odd"]})
    assert Manifest.open(odd).n_rows == 1


def test_a_relative_path_is_made_absolute_so_that_workers_find_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "m.parquet", {"prompt": ["a"]})
    monkeypatch.chdir(tmp_path)
    manifest = pickle.loads(pickle.dumps(Manifest.open("m.parquet")))
    monkeypatch.chdir("/")
    assert manifest.row_groups[0].uri == str(tmp_path / "m.parquet")
    assert rows_of(manifest) == [(0, {"prompt": "a"})]


def test_known_columns_keep_their_files_types_and_extras_get_one_type(tmp_path: Path) -> None:
    write(
        tmp_path / "a.parquet",
        {
            "id": pa.array([1, 2]),
            "prompt": pa.array(["a", "b"]).dictionary_encode(),
            "seed": pa.array([2**62 + 1, None]),
            "bpm": pa.array([90, None], pa.int32()),
            "genre": pa.array(["x", "y"]).dictionary_encode(),
            "empty": pa.nulls(2),
        },
    )
    write(
        tmp_path / "b.parquet",
        {
            "id": pa.array(["c"], pa.large_string()),
            "prompt": pa.array(["c"], pa.large_string()),
            "seed": pa.array([3.0]),
            "bpm": pa.array([100.5]),
            "genre": pa.array(["z"], pa.large_string()),
            "only_b": pa.array([[1, 2]]),
        },
    )
    manifest = Manifest.open(str(tmp_path))
    assert manifest.known_columns == ("id", "prompt", "seed")
    assert manifest.extra_schema == pa.schema(
        {
            "bpm": pa.float64(),
            "genre": pa.string(),
            "empty": pa.string(),
            "only_b": pa.list_(pa.int64()),
        }
    )
    rows = [row for _, row in rows_of(manifest)]
    assert [row["bpm"] for row in rows] == [90.0, None, 100.5]
    assert [row["genre"] for row in rows] == ["x", "y", "z"]
    assert [row["only_b"] for row in rows] == [None, None, [1, 2]]
    parsed = [parse_row(row, source="", row=0)[0] for row in rows]
    assert [(row.id, row.seed) for row in parsed if row] == [
        ("1", 2**62 + 1),
        ("2", None),
        ("c", 3),
    ]


def test_a_pandas_frame_with_holes_is_read_as_meant(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "prompt": ["a", None],
            "melody_uri": [np.nan, "b.wav"],
            "seed": [5, np.nan],
            "cfg_coef": [np.nan, 2.0],
            "use_sampling": [None, True],
        }
    )
    frame.to_parquet(tmp_path / "m.parquet")
    manifest = Manifest.open(str(tmp_path / "m.parquet"))
    ((_, batch),) = manifest.read_row_group(manifest.row_groups[0])
    rows = [parse_row(raw, source="", row=0)[0] for raw in manifest.raw_rows(batch)]
    assert rows[0] is not None
    assert rows[1] is not None
    assert (rows[0].seed, rows[0].cfg_coef, rows[0].references()) == (5, None, {})
    assert (rows[1].seed, rows[1].prompt, rows[1].use_sampling) == (None, None, True)


@pytest.mark.parametrize(
    "audio",
    [
        pa.array([b"RIFF", None]),
        pa.array([b"RIFF", None], pa.large_binary()),
        pa.array([{"bytes": b"RIFF", "path": None}, {"bytes": None, "path": None}]),
        pa.array([{"bytes": b"RIFF", "path": "x.wav"}, None]),
    ],
)
def test_embedded_audio_is_binary_or_a_hugging_face_struct(tmp_path: Path, audio: pa.Array) -> None:
    path = write(tmp_path / "m.parquet", {"prompt": ["a", "b"], "melody_audio": audio})
    manifest = Manifest.open(path)
    parsed = [parse_row(row, source="", row=0)[0] for _, row in rows_of(manifest)]
    assert [row.references() for row in parsed if row] == [{"melody": b"RIFF"}, {}]


def test_batches_stay_small_where_audio_is_embedded(tmp_path: Path) -> None:
    path = write(tmp_path / "m.parquet", {"prompt": ["a"] * 100, "melody_audio": [b"RIFF"] * 100})
    manifest = Manifest.open(path)
    sizes = [
        batch.num_rows
        for _, batch in manifest.read_row_group(manifest.row_groups[0], batch_rows=2000)
    ]
    assert max(sizes) == 32
    prompts = manifest.read_row_group(manifest.row_groups[0], batch_rows=2000, columns=["prompt"])
    assert [batch.num_rows for _, batch in prompts] == [100]


def test_all_faults_of_the_columns_come_at_once(tmp_path: Path) -> None:
    write(
        tmp_path / "a.parquet",
        {
            "prompt": [["a", "list"]],
            "promt": ["a"],
            "duration_s": ["10"],
            "seed": pa.array([True]),
            "melody_audio": [[0.5]],
            "style_audio": [{"array": [0.5], "sampling_rate": 1}],
            "id": [1.5],
            "mood": ["x"],
        },
    )
    write(tmp_path / "b.parquet", {"prompt": ["a"], "mood": [1]})
    with pytest.raises(ManifestError) as caught:
        Manifest.open(str(tmp_path))
    text = str(caught.value)
    for words in (
        "column 'promt' looks like 'prompt'",
        "column 'prompt' is list<element: string> in a.parquet, must be text",
        "column 'duration_s' is string in a.parquet, must be numbers",
        "column 'seed' is bool in a.parquet, must be numbers",
        "column 'melody_audio' is list<element: double>",
        "column 'style_audio' is struct",
        "column 'id' is double in a.parquet, must be text or integers",
        "column 'mood' is string in a.parquet and int64 in b.parquet; cast one of them",
    ):
        assert words in text
    assert len(text.splitlines()) == 8


def test_extra_columns_and_reserved_names_are_heeded(tmp_path: Path) -> None:
    path = write(tmp_path / "m.parquet", {"prompt": ["a"], "promt": ["b"], "clip_id": ["c"]})
    with pytest.raises(ManifestError, match="'clip_id' is also a column of the output"):
        Manifest.open(path, extra_columns=["promt"], reserved=["clip_id"])
    assert Manifest.open(path, extra_columns=["promt"]).extra_schema.names == ["promt", "clip_id"]


def test_what_is_no_manifest_is_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text('{"prompt": "a"}\n')
    (tmp_path / "zero.parquet").write_bytes(b"")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 not really")
    whole = Path(write(tmp_path / "whole.parquet", {"prompt": ["a"] * 1000})).read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[:-20])
    (tmp_path / "empty").mkdir()
    write(tmp_path / "none.parquet", {"prompt": pa.array([], pa.string())})
    for name, words in {
        "m.jsonl": "musicgen-batch manifest build m.jsonl m.parquet",
        "zero.parquet": "is empty (0 bytes)",
        "bad.parquet": "no sound Parquet file",
        "cut.parquet": "no sound Parquet file",
        "empty": "no .parquet file is there",
        "none.parquet": "has no rows",
        "missing.parquet": "not found",
    }.items():
        with pytest.raises(ManifestError) as caught:
            Manifest.open(str(tmp_path / name))
        assert words in str(caught.value)
        assert name in str(caught.value)
    with pytest.raises(ManifestError, match="ftpx"):
        Manifest.open("ftpx://host/m.parquet")


def test_a_manifest_of_a_newer_schema_is_refused(tmp_path: Path) -> None:
    table = pa.table({"prompt": ["a"]}).replace_schema_metadata({VERSION_KEY: b"99"})
    pq.write_table(table, tmp_path / "m.parquet")
    with pytest.raises(ManifestError, match=r"manifest schema 99.*upgrade"):
        Manifest.open(str(tmp_path / "m.parquet"))


def test_a_file_that_is_replaced_while_it_is_read_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "m.parquet", {"prompt": ["a", "b"]}, 1)
    manifest = Manifest.open(path)
    list(manifest.read_row_group(manifest.row_groups[0]))
    write(tmp_path / "m.parquet", {"prompt": ["a", "another"]}, 1)
    with pytest.raises(ManifestError, match="was replaced while it was being read"):
        list(manifest.read_row_group(manifest.row_groups[1]))


def test_text_that_is_no_utf8_is_an_error_not_a_crash(tmp_path: Path) -> None:
    broken = pa.array([b"caf\xe9"]).view(pa.string())
    path = write(tmp_path / "m.parquet", {"prompt": broken})
    manifest = Manifest.open(path)
    with pytest.raises(ManifestError, match="UTF8"):
        list(manifest.read_row_group(manifest.row_groups[0]))


@pytest.mark.s3
def test_a_manifest_on_s3_is_seen_as_it_is_now(s3: S3Server, tmp_path: Path) -> None:
    import fsspec

    root = s3.bucket()
    fs = fsspec.filesystem("s3", use_listings_cache=False)
    local = write(tmp_path / "m.parquet", {"prompt": ["a", "b"]})
    fs.put_file(local, f"{root}/set/a.parquet")
    assert Manifest.open(f"{root}/set").n_rows == 2
    fs.put_file(local, f"{root}/set/b.parquet")
    manifest = Manifest.open(f"{root}/set/", storage_options={"endpoint_url": s3.endpoint})
    assert [row_group.uri for row_group in manifest.row_groups] == [
        f"{root}/set/a.parquet",
        f"{root}/set/b.parquet",
    ]
    assert [number for number, _ in rows_of(manifest)] == [0, 1, 2, 3]
    assert Manifest.open(f"{root}/set/*.parquet").n_rows == 4
    with pytest.raises(ManifestError, match="not found"):
        Manifest.open(f"{root}/nothing")
