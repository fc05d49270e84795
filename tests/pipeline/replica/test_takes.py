"""Best of takes: the takes of a row are judged together, and the same ones are kept every time.

What a run with `--keep-best` must keep follows from a run that keeps all takes: `everything`.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import RunSummary, ledger
from pipeline.audio.scores.protocol import ScoredClip
from pipeline.audio.scores.scoring import ScorerSet
from pipeline.ledger.scores import read_scores
from pipeline.storage import open_storage
from tests.integration.jobs import clips, problems, run_here, wait_until, write_manifest
from tests.pipeline.replica.takes import BEST, N_ROWS, TAKES, Everything, kept, make_manifest

# Each test runs the bundled model.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Everything:
    folder = tmp_path_factory.mktemp("takes")
    manifest, output = make_manifest(folder), f"file://{folder}/all"
    run_here(manifest, output, **{k: v for k, v in BEST.items() if k != "keep_best"})
    rows = clips(output)
    assert len(rows) == N_ROWS * TAKES
    found = Everything(manifest, rows)
    assert {take for _, take in found.best()} != {0}
    return found


def test_the_best_are_kept_and_the_others_are_recorded(
    everything: Everything, tmp_path: Path
) -> None:
    output = f"file://{tmp_path}/out"

    summary = run_here(everything.manifest, output, **BEST)

    assert kept(output) == everything.best()
    n_aside = N_ROWS * (TAKES - 1)
    assert (summary.clips, summary.tally.aside, summary.left) == (N_ROWS, n_aside, 0)
    assert summary.exit_code == 0
    assert problems(output) == []
    assert len(list((tmp_path / "out" / "audio").rglob("*.flac"))) == N_ROWS
    scores = read_scores(open_storage(output)).to_pylist()
    assert len(scores) == 2 * N_ROWS * TAKES
    judged = {(r["id"], r["take"]): r for r in scores if r["scorer"] == "melody"}
    for row in everything.rows:
        mine = judged[row["id"], row["take"]]
        assert mine["clip_id"] == row["clip_id"]
        assert mine["seed_used"] == row["seed_used"]
        assert mine["score"] == row["score_melody"]
        assert mine["kept"] == ((row["id"], row["take"]) in everything.best())
    assert all(row["ruling"] is None for row in scores if row["scorer"] == "key")
    assert {scorer["name"] for row in clips(output) for scorer in row["scorers"]} == {
        *("melody", "key")
    }

    again = run_here(everything.manifest, output, **BEST)
    assert (again.plan.pending, again.plan.outcomes["done"]) == (0, N_ROWS * TAKES)
    assert not list((tmp_path / "out" / "scores").glob(f"*{again.run_id}*"))


@pytest.mark.long
def test_other_settings_judge_again_and_what_stands_is_not_made_twice(
    everything: Everything, tmp_path: Path
) -> None:
    output = f"file://{tmp_path}/out"
    run_here(everything.manifest, output, **BEST)

    more = run_here(everything.manifest, output, **BEST | {"keep_best": 2})

    assert kept(output) == everything.best(2)
    assert more.plan.pending == N_ROWS * TAKES  # a take is chosen among its likes
    assert (more.clips, more.tally.aside) == (2 * N_ROWS, N_ROWS * (TAKES - 2))
    assert problems(output) == []

    without = run_here(everything.manifest, output)
    assert without.plan.pending == N_ROWS * (TAKES - 2)
    assert kept(output) == everything.best(TAKES)
    back = run_here(everything.manifest, output, **BEST)
    assert back.plan.pending == 0


@pytest.mark.long
def test_neither_replicas_nor_slots_nor_parts_decide_what_is_kept(
    everything: Everything, tmp_path: Path
) -> None:
    for number, settings in enumerate(
        [
            {"replicas": 2, "block_rows": 1},
            {"part_clips": 1, "block_rows": 8},
            {"part_clips": 1, "slots": 1},
        ]
    ):
        output = f"file://{tmp_path}/{number}"
        run_here(everything.manifest, output, **BEST | settings)
        assert kept(output).keys() == everything.best().keys(), settings
        if "slots" not in settings:
            assert kept(output) == everything.best()
        assert problems(output) == []


def test_a_row_without_a_melody_keeps_its_first_takes(tmp_path: Path) -> None:
    row = {"id": "plain", "prompt": "C major, slow flute melody", "duration_s": 0.4, "takes": 3}
    manifest, output = write_manifest(tmp_path / "m.parquet", [row]), f"file://{tmp_path}/out"

    run_here(manifest, output, score="melody", keep_best=2)

    assert sorted(kept(output)) == [("plain", 0), ("plain", 1)]
    assert {row["score"] for row in read_scores(open_storage(output)).to_pylist()} == {None}


def test_takes_is_a_setting_that_rows_may_override(tmp_path: Path) -> None:
    rows = [
        {"id": "many", "prompt": "C major", "duration_s": 0.4, "takes": None},
        {"id": "one", "prompt": "C major", "duration_s": 0.4, "takes": 1},
    ]
    manifest, output = write_manifest(tmp_path / "m.parquet", rows), f"file://{tmp_path}/out"
    run_here(manifest, output, takes=2)
    assert sorted(kept(output)) == [("many", 0), ("many", 1), ("one", 0)]


# --- what goes wrong


def failing_at(monkeypatch: pytest.MonkeyPatch, fails: Callable[[ScoredClip], bool]) -> None:
    """A scorer that fails on some clips."""
    score = ScorerSet.score

    def scored(self: ScorerSet, clip: ScoredClip) -> Any:
        if fails(clip):
            raise RuntimeError("out of tune")
        return score(self, clip)

    monkeypatch.setattr(ScorerSet, "score", scored)


@pytest.mark.long
def test_a_take_that_fails_is_a_dead_letter_and_the_others_are_judged(
    everything: Everything, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, broken = f"file://{tmp_path}/out", [True]
    failing_at(monkeypatch, lambda clip: bool(broken and broken.pop()))

    summary = run_here(everything.manifest, output, **BEST | {"encode_threads": 1})

    assert (summary.clips, summary.failed, summary.left) == (N_ROWS, 1, 0)
    (letter,) = ledger.read_dead_letters(open_storage(output)).to_pylist()
    assert letter["stage"] == "score"
    assert "RuntimeError: out of tune" in letter["message"]
    assert run_here(everything.manifest, output, **BEST).plan.pending == 0

    mended = run_here(everything.manifest, output, retry=True, **BEST)

    assert mended.plan.pending == TAKES  # all takes of that row
    assert everything.best().keys() <= kept(output).keys()
    assert ledger.read_dead_letters(open_storage(output)).num_rows == 0
    assert problems(output) == []
    done = run_here(everything.manifest, output, **BEST)
    assert (done.plan.pending, done.exit_code) == (0, 0)


@pytest.mark.long
def test_a_drain_leaves_no_take_half_judged(everything: Everything, tmp_path: Path) -> None:
    output = f"file://{tmp_path}/out"
    drained = run_here(
        everything.manifest, output, **BEST | {"slots": 1, "max_runtime": "3s", "drain_s": 0.1}
    )
    judged = read_scores(open_storage(output)).to_pylist()
    by_row = {row["id"]: {r["take"] for r in judged if r["id"] == row["id"]} for row in judged}
    assert all(len(takes) == TAKES for takes in by_row.values())
    assert drained.left == N_ROWS * TAKES - drained.tally.ended

    run_here(everything.manifest, output, **BEST | {"slots": 1})

    assert kept(output).keys() == everything.best().keys()
    assert problems(output) == []


@pytest.mark.long
def test_a_run_that_ends_between_the_scores_and_the_clips_makes_the_kept_take_alone(
    everything: Everything, tmp_path: Path
) -> None:
    """The commit writes scores first: what was ruled is not judged again."""
    output = f"file://{tmp_path}/out"
    run_here(everything.manifest, output, **BEST)
    for part in (tmp_path / "out" / "clips").glob("*.parquet"):
        part.unlink()

    plan = run_here(everything.manifest, output, **BEST).plan

    assert (plan.pending, plan.outcomes["done"]) == (N_ROWS, N_ROWS * (TAKES - 1))
    assert kept(output) == everything.best()


@pytest.mark.long
def test_a_replica_that_is_asked_again_makes_no_clip_twice(
    everything: Everything, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray may send a task again to a new process of an actor that had committed its clips."""
    output = f"file://{tmp_path}/out"
    run_here(everything.manifest, output, **BEST)
    for part in (tmp_path / "out" / "scores").glob("*.parquet"):
        part.unlink()  # so all rows are judged again, while their clips stand

    again: RunSummary = run_here(everything.manifest, output, **BEST)

    assert again.plan.pending == N_ROWS * TAKES
    assert (again.clips, again.tally.aside) == (N_ROWS, N_ROWS * (TAKES - 1))
    assert kept(output) == everything.best()
    assert problems(output) == []


@pytest.mark.long
def test_the_kept_clips_are_the_same_after_a_kill(tmp_path: Path) -> None:
    """kill -9 again and again, with two replicas, until the run comes to its end."""
    manifest = make_manifest(tmp_path, n_rows=8)
    whole = f"file://{tmp_path}/whole"
    run_here(manifest, whole, **BEST)
    output, folder = f"file://{tmp_path}/out", tmp_path / "out"
    flags = ["--local", "--replicas", "2", "--block-rows", "1", "--lease-ttl-s", "1", "--wait"]
    flags += ["--model", "tiny", "--score", "melody,key", "--keep-best", "1", "--slots", "2"]
    flags += ["--part-clips", "2"]
    command = ["run", "--manifest", str(manifest), "--output", output, *flags]
    n_kills, code = 0, -signal.SIGKILL
    for n_parts in (1, 2, 3, 10**6):
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.cli", *command],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ),
        )  # fmt: skip

        def has_parts(process: Any = process, n_parts: int = n_parts) -> bool:
            done = process.poll() is not None
            return done or len(list(folder.glob("scores/part-*"))) >= n_parts

        wait_until(has_parts)
        if process.poll() is None:
            process.kill()
            n_kills += 1
        code = process.wait()
    assert (n_kills, code) == (3, 0)
    assert kept(output) == kept(whole)
    assert len(kept(output)) == 8
    assert problems(output) == []
