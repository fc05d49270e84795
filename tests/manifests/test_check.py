"""`manifest check`: every error of every row at once, in every format, audio included."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from manifests.build import build
from manifests.check import CheckedModel, CheckReport, check
from manifests.reader import ManifestError
from tests.s3 import S3Server

TEXT_MODEL = CheckedModel("facebook/musicgen-small", frozenset({"continuation"}))


def parquet(path: Path, rows: list[dict[str, Any]]) -> str:
    columns = {name: [row.get(name) for row in rows] for row in rows for name in row}
    pq.write_table(pa.table(columns), path)
    return str(path)


def jsonl(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def audio(duration_s: float = 1.0, kind: str = "WAV") -> bytes:
    buffer = io.BytesIO()
    samples = np.sin(np.arange(round(8000 * duration_s)) / 5)
    soundfile.write(buffer, samples, 8000, format=kind)
    return buffer.getvalue()


def found(report: CheckReport) -> list[tuple[int, str | None]]:
    return [(issue.row, issue.column) for issue in report.issues]


BAD_ROWS = [
    {"id": "a", "prompt": "x", "duration_s": 45000.0, "seed": -1},
    {"id": "b", "prompt": "fine", "duration_s": 3.0, "seed": 1},
    {"id": "c", "prompt": None, "duration_s": 3.0, "seed": 1},
    {"id": "b", "prompt": "again", "duration_s": 3.0, "seed": 1},
    {"id": "e", "prompt": "x", "duration_s": float("inf"), "seed": 2},
]


@pytest.mark.parametrize("write", [parquet, jsonl])
def test_every_error_of_every_row_in_every_format(tmp_path: Path, write: Any) -> None:
    uri = write(tmp_path / f"m.{write.__name__}", BAD_ROWS)
    report = check(uri)
    assert found(report) == [
        (0, "duration_s"),
        (0, "seed"),
        (2, "prompt"),
        (3, "id"),
        (4, "duration_s"),
    ]
    assert (report.n_rows, report.n_rejected, report.n_clips) == (5, 4, 1)
    assert not report.ok
    assert report.rejects_uri is None


def test_a_good_manifest_is_ok_and_writes_no_rejects(tmp_path: Path) -> None:
    uri = parquet(
        tmp_path / "m.parquet", [{"prompt": "a", "takes": 3}, {"prompt": "b", "takes": 1}]
    )
    report = check(uri, rejects_uri=str(tmp_path / "rejects.parquet"))
    assert report.ok
    assert (report.n_rows, report.n_clips, report.rejects_uri) == (2, 4, None)
    assert not (tmp_path / "rejects.parquet").exists()


def test_rejects_hold_the_rows_and_all_their_problems(tmp_path: Path) -> None:
    rows = [*BAD_ROWS, {"id": "f", "prompt": None, "melody_audio": b""}]
    uri = parquet(tmp_path / "m.parquet", rows)
    report = check(uri, rejects_uri=str(tmp_path / "rejects.parquet"))
    rejects = pq.read_table(str(report.rejects_uri)).to_pylist()
    assert [(reject["row"], reject["id"]) for reject in rejects] == [
        (0, "a"),
        (2, "c"),
        (3, "b"),
        (4, "e"),
        (5, "f"),
    ]
    assert [len(reject["problems"]) for reject in rejects] == [2, 1, 1, 1, 1]
    assert "m.parquet row 0 (id=a): duration_s=45000.0 exceeds 3600 s" in rejects[0]["problems"][0]
    assert json.loads(rejects[0]["row_json"])["duration_s"] == 45000.0
    assert json.loads(rejects[4]["row_json"])["melody_audio"] == "<0 bytes>"


def test_rows_without_ids_that_say_the_same_are_duplicates(tmp_path: Path) -> None:
    uri = jsonl(tmp_path / "m.jsonl", [{"prompt": "a"}, {"prompt": "b"}, {"prompt": "a"}])
    (issue,) = check(uri).issues
    assert issue.row == 2
    assert "is also the id of row 0" in issue.rule
    assert "takes" in issue.way_out


def test_column_faults_do_not_hide_the_rows_errors(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "promt": "x", "duration_s": "10", "seed": -1}]
    report = check(parquet(tmp_path / "m.parquet", rows))
    assert len(report.column_faults) == 2
    assert found(report) == [(0, "seed")]
    report = check(jsonl(tmp_path / "m.jsonl", rows))
    assert len(report.column_faults) == 1
    assert found(report) == [(0, "duration_s"), (0, "seed")]
    assert check(str(tmp_path / "m.jsonl"), extra_columns=["promt"]).column_faults == ()


def test_a_line_that_is_no_json_is_one_error_among_others(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text('{"prompt": "a"}\n{oops}\n{"prompt": ""}\n')
    report = check(str(tmp_path / "m.jsonl"), rejects_uri=str(tmp_path / "r.parquet"))
    assert [(issue.row, issue.line, issue.column) for issue in report.issues] == [
        (1, 2, None),
        (2, 3, "prompt"),
    ]
    assert pq.read_table(tmp_path / "r.parquet")["line"].to_pylist() == [2, 3]


def test_against_a_model(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "melody_uri": "a.wav"},
        {"id": "b", "continuation_uri": "a.wav"},
    ]
    uri = parquet(tmp_path / "m.parquet", rows)
    report = check(uri, limits=TEXT_MODEL)
    assert found(report) == [(0, "melody_uri")]
    assert report.issues[0].message == (
        "m.parquet row 0 (id=a): melody is not something that "
        "facebook/musicgen-small takes (it takes continuation); remove it or choose another --model"
    )
    assert check(uri).ok


def test_read_audio_opens_every_reference(tmp_path: Path) -> None:
    whole = audio(1.0, "FLAC")
    files = {
        "good.flac": whole,
        "good.ogg": audio(1.0, "OGG"),
        "empty.wav": b"",
        "text.wav": b"this is no audio at all",
        "cut.flac": whole[: len(whole) // 2],
        "no-samples.wav": audio(0.0),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "folder").mkdir()
    expected = {
        "good.flac": None,
        "good.ogg": None,
        "empty.wav": "is empty (0 bytes)",
        "text.wav": "not an audio file that can be read",
        "cut.flac": "truncated",
        "no-samples.wav": "holds no audio samples",
        "folder": "is a folder",
        "missing.wav": "no such file",
        "ftpx://host/a.wav": "ftpx:// is not known here",
    }
    rows = [{"id": name, "melody_uri": name} for name in expected]
    report = check(jsonl(tmp_path / "m.jsonl", rows), read_audio=True)
    said = {issue.id: issue.rule for issue in report.issues}
    assert said.keys() == {name for name, words in expected.items() if words is not None}
    assert all(words in said[name] for name, words in expected.items() if words)
    assert check(str(tmp_path / "m.jsonl")).ok


def test_embedded_audio_is_opened_too(tmp_path: Path) -> None:
    rows = [{"id": "a", "melody_audio": audio()}, {"id": "b", "melody_audio": b"noise"}]
    report = check(parquet(tmp_path / "m.parquet", rows), read_audio=True)
    assert found(report) == [(1, "melody_audio")]


def test_a_continuation_must_leave_time_for_music(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(audio(2.0))
    rows = [{"id": str(d), "continuation_uri": "a.wav", "duration_s": d} for d in (1.0, 2.0, 2.5)]
    report = check(parquet(tmp_path / "m.parquet", rows), read_audio=True)
    assert [issue.id for issue in report.issues] == ["1.0", "2.0"]
    assert report.issues[0].message == (
        "m.parquet row 0 (id=1.0): continuation has 2.00 s, but duration_s=1 includes it; raise "
        "duration_s or cut the audio"
    )


def test_a_manifest_that_cannot_be_read_at_all_raises(tmp_path: Path) -> None:
    for name in ("none.parquet", "none.jsonl", "none.csv"):
        with pytest.raises(ManifestError, match="not found"):
            check(str(tmp_path / name))


@pytest.mark.s3
def test_references_and_rejects_on_s3(s3: S3Server, tmp_path: Path) -> None:
    import fsspec

    root = s3.bucket()
    fs = fsspec.filesystem("s3", use_listings_cache=False)
    rows = [{"id": "a", "melody_uri": "audio/a.wav"}, {"id": "b", "melody_uri": "audio/b.wav"}]
    fs.pipe_file(f"{root}/set/audio/a.wav", audio())
    fs.put_file(jsonl(tmp_path / "m.jsonl", rows), f"{root}/set/m.jsonl")
    report = check(f"{root}/set/m.jsonl", read_audio=True, rejects_uri=f"{root}/rejects.parquet")
    assert [(issue.id, issue.rule) for issue in report.issues] == [
        ("b", f"{root}/set/audio/b.wav: no such file; correct the path, then `retry`")
    ]
    with fs.open(f"{root}/rejects.parquet") as stream:
        assert pq.read_table(stream)["id"].to_pylist() == ["b"]


@pytest.mark.parametrize("where", ["in", "in/*.csv"])
def test_a_folder_or_glob_of_tables_is_checked_as_it_is_built(tmp_path: Path, where: str) -> None:
    (tmp_path / "in").mkdir()
    for name in "ab":
        (tmp_path / "in" / f"{name}.csv").write_text("id;prompt\nsame;x\n")
    report = check(str(tmp_path / where))
    (issue,) = report.issues
    assert issue.message.startswith("b.csv line 2 row 1 (id=same): ")
    assert len([note for note in report.notes if "separated by ';'" in note]) == 2
    summary = build(str(tmp_path / where), str(tmp_path / "m.parquet"))
    assert summary.issues == report.issues
