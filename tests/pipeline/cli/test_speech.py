"""What commands say: one JSON document with --json, nothing needless with --quiet."""

import json
from pathlib import Path
from typing import Any

import click
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from pipeline.cli.root import main
from pipeline.storage import open_storage
from tests.docs.command_line import commands, flags_of
from tests.pipeline.outputs import clip, commit, fail, letter

FOLDER = "<folder>"
# Commands that only write a page or a file, or that need a cluster, are run elsewhere.
ANSWERS = {
    "status": ["status", "--output", FOLDER],
    "verify": ["verify", "--output", FOLDER],
    "compact": ["compact", "--output", FOLDER],
    "gc": ["gc", "--output", FOLDER],
    "report": ["report", "--output", FOLDER],
    "models": ["models"],
    "manifest check": ["manifest", "check", f"{FOLDER}/m.parquet"],
    "manifest build": ["manifest", "build", f"{FOLDER}/m.jsonl", f"{FOLDER}/built.parquet"],
    "plan": ["plan", "--manifest", f"{FOLDER}/m.parquet", "--model", "tiny"],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An output of two clips and a dead letter, with manifests beside them."""
    storage = open_storage(str(tmp_path))
    commit(storage, [clip("a"), clip("b")], 0)
    fail(storage, [letter("c")], 0)
    row = {"id": "a", "prompt": "x", "duration_s": 1.0}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "m.parquet")
    (tmp_path / "m.jsonl").write_text(json.dumps(row) + "\n")
    return tmp_path


def invoke(words: list[str], folder: Path, *more: str) -> Result:
    return CliRunner().invoke(main, [word.replace(FOLDER, str(folder)) for word in words] + [*more])


def document(result: Result) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_every_command_can_answer_in_json_and_be_quiet() -> None:
    for name, command in commands().items():
        assert {"--json", "--quiet", "-q", "--verbose", "-v"} <= flags_of(command), name


@pytest.mark.parametrize("name", ANSWERS)
def test_the_answer_is_one_json_document(name: str, folder: Path) -> None:
    result = invoke(ANSWERS[name], folder, "--json", "--quiet")

    assert result.exit_code == 0, result.output
    assert document(result)
    assert result.stderr == ""


def test_the_document_of_a_check_names_every_fault(folder: Path) -> None:
    rows = [{"id": "a", "prompt": "x", "duration_s": -1.0}, {"id": "a", "prompt": "y"}]
    pq.write_table(pa.Table.from_pylist(rows), folder / "bad.parquet")

    result = invoke(["manifest", "check", f"{FOLDER}/bad.parquet"], folder, "--json")

    assert result.exit_code == 2
    found = document(result)
    assert (found["ok"], found["rows"], found["rejected"]) == (False, 2, 2)
    assert [issue["row"] for issue in found["issues"]] == [0, 1]
    assert all(issue["message"] in result.stderr for issue in found["issues"])


def test_the_document_of_verify_names_every_problem(folder: Path) -> None:
    next((folder / "audio").rglob("*.flac")).write_bytes(b"damaged")

    result = invoke(ANSWERS["verify"], folder, "--json")

    assert result.exit_code == 1
    found = document(result)
    assert not found["ok"]
    assert len(found["problems"]) == 1
    assert "`verify --repair` takes damaged clips and parts out" in result.stderr


def test_a_clip_that_stands_twice_has_its_own_way_out(folder: Path) -> None:
    commit(open_storage(str(folder)), [clip("a")], 0, replica="bbbbbb")

    result = invoke(ANSWERS["verify"], folder)

    assert result.exit_code == 1
    assert result.stderr.endswith("`compact` drops the second copies\n")


def test_a_dry_run_lists_what_would_go_and_removes_nothing(folder: Path) -> None:
    storage = open_storage(str(folder))
    commit(storage, [clip("d")], 1)
    orphan = clip("orphan")["audio_path"]
    storage.put_many({orphan: b"1", "audio/mine.flac": b"1", "notes.md": b"1"})
    before = {info.path for info in storage.list() if not info.path.startswith("lease/")}

    gc = invoke([*ANSWERS["gc"], "--dry-run", "--min-age-s", "0"], folder)
    compact = invoke([*ANSWERS["compact"], "--dry-run"], folder)

    assert f"would remove {orphan} (1 byte)\n" in gc.stderr
    assert "mine.flac" not in gc.stderr
    assert compact.stderr.count("would replace clips/part-") == 2
    assert {info.path for info in storage.list() if not info.path.startswith("lease/")} == before


def test_one_is_singular(folder: Path) -> None:
    assert "2 clips, 2.0 s of audio in 1 part; 1 dead letter stands" in status(folder)
    assert (
        "2 clips in 1 part: 0 problems; benign: 0 superseded clips"
        in invoke(ANSWERS["verify"], folder).stdout
    )
    assert invoke(ANSWERS["manifest check"], folder).stdout.endswith("1 row, 1 clip, no errors\n")
    assert "1 row: 1 clip to make" in invoke(ANSWERS["plan"], folder).stdout


def status(folder: Path) -> str:
    return invoke(ANSWERS["status"], folder).stdout


class TestRun:
    """A run without Ray of two clips and a row that fails, and the same again."""

    @pytest.fixture(scope="class")
    def folder(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        folder = tmp_path_factory.mktemp("run")
        rows = [{"id": id, "prompt": "x", "melody_uri": uri} for id, uri in
                (("a", None), ("b", None), ("bad", "nowhere.wav"))]  # fmt: skip
        pq.write_table(pa.Table.from_pylist(rows), folder / "m.parquet")
        return folder

    def run(self, folder: Path, *more: str) -> Result:
        where = ["--manifest", f"{folder}/m.parquet", "--output", f"{folder}/out"]
        settings = ["--model", "tiny", "--local", "--duration-s", "0.1", "--slots", "2"]
        return CliRunner().invoke(main, ["run", *where, *settings, *more])

    @pytest.mark.slow
    def test_summary_status_record_and_report_have_the_same_counts(self, folder: Path) -> None:
        result = self.run(folder, "--json")

        assert result.exit_code == 3
        told = document(result)
        assert (told["done"], told["failed"], told["left"]) == (2, 0, 0)
        assert told["dead_letters_standing"] == 1
        storage = open_storage(f"{folder}/out")
        (name,) = storage.list("runs")
        record = json.loads(storage.get(name.path))
        for key in ("run_id", "done", "failed", "pending", "audio_seconds", "done_before"):
            assert told[key] == record[key], key
        found = CliRunner().invoke(main, ["status", "--output", f"{folder}/out", "--json"])
        state = document(found)
        assert (state["clips"], state["dead_letters"]) == (2, 1)
        assert state["audio_s"] == pytest.approx(told["audio_seconds"])
        assert "progress: 2 of 2 clips made, 0 failed, 0 left" in result.stderr
        assert len(result.stderr.splitlines()) < 25

    @pytest.mark.slow
    def test_quiet_leaves_the_dead_letters(self, folder: Path) -> None:
        result = self.run(folder, "--quiet")

        assert result.exit_code == 3
        assert result.stdout == ""
        assert result.stderr.startswith("1 dead letter of this manifest stands (one per row")
        assert result.stderr.count("\n") == 1


def test_messages_of_errors_are_never_quiet(folder: Path) -> None:
    result = invoke(["status", "--output", f"{FOLDER}/nowhere"], folder, "--quiet", "--json")

    assert result.exit_code == 2
    assert "no such output" in result.stderr
    assert result.stdout == ""


def test_click_finds_no_flag_twice() -> None:
    for name, command in commands().items():
        options = [each for each in command.params if isinstance(each, click.Option)]
        flags = [flag for option in options for flag in (*option.opts, *option.secondary_opts)]
        assert len(flags) == len(set(flags)), name
