"""`musicgen-batch score`: scores of clips that stand, beside them, resumable."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from click.testing import CliRunner

from musicgen.tiny.training.pieces import caption, random_piece, rng_of
from pipeline.cli.root import main
from pipeline.ledger.lease import Lease
from pipeline.ledger.scores import read_scores
from pipeline.report import scoring
from pipeline.report.scoring import scores_of_clips
from pipeline.storage import open_storage
from tests.integration.jobs import clips, problems, run_here, wait_until, write_manifest

pytestmark = pytest.mark.slow

N_ROWS = 5


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output whose clips were scored while they were made, and the same without scores."""
    folder = tmp_path_factory.mktemp("scored")
    rows: list[dict[str, Any]] = []
    for index in range(N_ROWS):
        piece = random_piece(rng_of(5, index), 60, unseen=True)
        soundfile.write(folder / f"tune{index}.wav", piece.tune("bell"), 16_000)
        tune = f"tune{index}.wav" if index else None
        rows.append({"id": f"r{index}", "prompt": caption(piece), "melody_uri": tune})
    manifest = write_manifest(folder / "m.parquet", rows)
    settings = {"duration_s": 0.8, "slots": 4, "part_clips": 2}
    run_here(manifest, f"file://{folder}/with", score="melody,key,voice", **settings)
    shutil.copytree(folder / "with", folder / "without")
    for path in (folder / "without" / "clips").glob("*.parquet"):
        forget_scores(path)
    return folder


def forget_scores(path: Path) -> None:
    """Makes a part what it would be without `--score`."""
    table = pq.read_table(path)
    for at, field in enumerate(table.schema):
        if field.name == "scorers" or field.name.startswith("score_"):
            table = table.set_column(at, field, pa.nulls(table.num_rows, field.type))
    pq.write_table(table, path)


@pytest.fixture
def output(scored: Path, tmp_path: Path) -> Path:
    """A copy of the output without scores."""
    shutil.copytree(scored / "without", tmp_path / "out")
    return tmp_path / "out"


def score(output: Path, *flags: str) -> dict[str, Any]:
    """The answer of the command."""
    done = CliRunner().invoke(main, ["score", "--output", str(output), "--json", *flags])
    assert done.exit_code == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def by_clip(output: Path) -> dict[tuple[str, str], float | None]:
    table = read_scores(open_storage(str(output)))
    return {(row["clip_id"], row["scorer"]): row["score"] for row in table.to_pylist()}


def test_it_says_what_the_run_would_have_said(scored: Path, output: Path) -> None:
    before = {path: path.read_bytes() for path in (output / "clips").iterdir()}

    answer = score(output, "--score", "melody,key", "--score", "voice")

    found = by_clip(output)
    for row in clips(f"file://{scored}/with"):
        for name in ("melody", "key", "voice"):
            assert found[row["clip_id"], name] == row[f"score_{name}"]
    melody = answer["scorers"]["melody"]
    assert (melody["scored"], melody["silent"], melody["left"]) == (N_ROWS - 1, 1, 0)
    assert answer["clips"] == N_ROWS
    assert before == {path: path.read_bytes() for path in (output / "clips").iterdir()}
    assert problems(f"file://{output}") == []
    told = scores_of_clips(open_storage(str(output))).to_pylist()
    assert {(row["clip_id"], row["scorer"]): row["score"] for row in told} == found


def test_what_is_scored_is_not_scored_again(scored: Path, output: Path) -> None:
    score(output, "--score", "key")
    again = score(output, "--score", "key,voice")
    assert again["scorers"]["key"] == {
        "scored": 0, "known": N_ROWS, "silent": 0, "left": 0, "mean": None
    }  # fmt: skip
    assert again["scorers"]["voice"]["scored"] == N_ROWS
    assert len(by_clip(output)) == read_scores(open_storage(str(output))).num_rows == 2 * N_ROWS
    # Nor what a run has scored: its scores stand in the rows.
    assert score(scored / "with", "--score", "key")["scorers"]["key"]["known"] == N_ROWS
    assert not (scored / "with" / "scores").exists()


def test_a_score_by_other_weights_is_another_score(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.audio.scores import checkpoints

    score(output, "--score", "key")
    monkeypatch.setitem(checkpoints.VERSIONS, "key", 99)
    assert score(output, "--score", "key")["scorers"]["key"]["scored"] == N_ROWS
    assert read_scores(open_storage(str(output))).num_rows == 2 * N_ROWS


@pytest.mark.long
def test_clips_that_cannot_be_heard_are_left_and_tried_again(scored: Path, output: Path) -> None:
    audio = next((output / "audio").rglob("*.flac"))
    kept = audio.read_bytes()
    audio.write_bytes(b"noise")
    moved = output.parent / "elsewhere"
    moved.mkdir()
    for index in range(1, N_ROWS - 1):
        shutil.copy(scored / f"tune{index}.wav", moved)

    answer = score(output, "--score", "melody,key", "--references-from", str(moved))

    assert answer["scorers"]["key"]["left"] == 1
    assert answer["reasons"]["its audio can't be read: run verify"] == 2
    assert answer["scorers"]["melody"]["scored"] in (2, 3)  # which audio it was
    audio.write_bytes(kept)
    melody = score(output, "--score", "melody,key")["scorers"]["melody"]
    assert melody["left"] == 0
    assert len(by_clip(output)) == 2 * N_ROWS


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        ([], 2, "name what to do: --score melody, or --set-figures spectrum"),
        (["--score", "melodie"], 2, "no scorer is named 'melodie'"),
        (["--score", "clap=nobody/nothing"], 2, "neither a folder nor in the cache of the hub"),
        (
            ["--set-figures", "spectrum"],
            2,
            "--set-figures and --reference-audio FOLDER go together",
        ),
    ],
)
def test_what_is_wrong_is_said(output: Path, flags: list[str], code: int, said: str) -> None:
    done = CliRunner().invoke(main, ["score", "--output", str(output), *flags])
    assert (done.exit_code, done.stdout) == (code, "")
    assert said in " ".join(done.stderr.split())
    assert not (output / "scores").exists()


def test_a_killed_command_goes_on(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """kill -9 after the first part; here in this process, between two parts, which is the same."""
    monkeypatch.setattr(scoring, "PART_ROWS", 1)
    monkeypatch.setattr(scoring, "CLIPS_AT_ONCE", 2)
    wrote: list[int] = []
    write = scoring.write_score_part

    def dies(*args: Any) -> str:
        if len(wrote) == 2:
            raise KeyboardInterrupt
        wrote.append(1)
        return write(*args)

    monkeypatch.setattr(scoring, "write_score_part", dies)
    killed = CliRunner().invoke(main, ["score", "--output", str(output), "--score", "key"])
    assert killed.exit_code == 1
    assert "the same command goes on from there" in killed.stderr
    assert read_scores(open_storage(str(output))).num_rows == 2

    monkeypatch.setattr(scoring, "write_score_part", write)
    counts = score(output, "--score", "key")["scorers"]["key"]
    assert (counts["known"], counts["scored"]) == (2, N_ROWS - 2)
    assert len(by_clip(output)) == N_ROWS


@pytest.mark.long
def test_kill_9_while_it_scores(output: Path) -> None:
    command = [sys.executable, "-m", "pipeline.cli", "score", "--output", str(output)]
    command += ["--score", "melody,key,tempo,voice", "--wait"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: (output / "lease").exists() or process.poll() is not None)
    process.kill()
    process.wait()
    env = dict(os.environ)
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    assert len(by_clip(output)) == 4 * N_ROWS
    assert read_scores(open_storage(str(output))).num_rows == 4 * N_ROWS
    assert problems(f"file://{output}") == []


@pytest.mark.long
def test_another_writer_is_waited_for_or_refused(output: Path) -> None:
    storage = open_storage(str(output))
    with Lease.acquire(storage, owner="run") as lease:
        lease.start_heartbeat()
        done = CliRunner().invoke(main, ["score", "--output", str(output), "--score", "key"])
    assert done.exit_code == 4
    assert not (output / "scores").exists()


def test_upkeep_knows_scores_and_leaves_them(output: Path) -> None:
    score(output, "--score", "key")
    stands = by_clip(output)
    for command in (["gc", "--min-age-s", "0"], ["compact", "--prune"]):
        done = CliRunner().invoke(main, [*command, "--output", str(output)])
        assert done.exit_code == 0, done.stderr
    assert by_clip(output) == stands
    verified = CliRunner().invoke(main, ["verify", "--output", str(output)])
    assert verified.exit_code == 0
    assert "0 objects of others" in verified.stdout
    (part,) = (output / "scores").glob("part-*")
    part.write_bytes(b"torn")
    torn = CliRunner().invoke(main, ["verify", "--output", str(output)])
    assert torn.exit_code == 1
    assert f"unreadable part: scores/{part.name}" in torn.stderr
    mended = CliRunner().invoke(main, ["verify", "--repair", "--output", str(output)])
    assert mended.exit_code == 0, mended.stderr
    assert score(output, "--score", "key")["scorers"]["key"]["scored"] == N_ROWS


def test_progress_has_an_eta() -> None:
    tally = scoring.ScoreTally(10)
    assert "ETA ?" in tally.line()
    tally = replace(tally, ended=5, started=tally.started - 60)
    assert "5 of 10 clips scored" in tally.line()
    assert "ETA 0:01:00" in tally.line()
    assert len(tally.short_line(20)) <= 20
