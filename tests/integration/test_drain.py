"""A run that is asked to end: what is begun is finished and committed, and a later one goes on."""

import os
import signal
from pathlib import Path

import pytest

from pipeline import ledger
from pipeline.storage import open_storage
from tests.integration.jobs import Cli, clips, problems, run_here, wait_until, write_manifest
from tests.pipeline.outputs import committed_ids

N_ROWS, N_SHORT = 14, 4


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clips after the first ones take their time, so that a run can be met in the middle."""
    rows = [
        {"id": f"r{i:02d}", "prompt": f"song {i}", "duration_s": 1.5 if i < N_SHORT else 8.0}
        for i in range(N_ROWS)
    ]
    return write_manifest(tmp_path_factory.mktemp("drain") / "m.parquet", rows)


def n_committed(output: str) -> int:
    return len(committed_ids(open_storage(output)))


@pytest.mark.long
def test_sigterm_commits_what_is_finished_and_the_next_run_resumes(
    manifest: Path, tmp_path: Path, cli: Cli
) -> None:
    """Exit code 5; the lease is free at once; in the end every clip once, with its bytes."""
    output, whole = f"file://{tmp_path}/out", f"file://{tmp_path}/whole"
    running = cli.start(*cli.job("run", manifest, output))
    wait_until(lambda: n_committed(output) >= N_SHORT)
    os.kill(running.pid, signal.SIGTERM)

    assert running.wait(timeout=60) == 5, cli.said(running)
    n_drained = n_committed(output)
    said = cli.said(running)
    assert "draining (SIGTERM" in said
    assert f"{n_drained} of {N_ROWS} clips made" in said
    assert "the same command goes on from there" in said
    assert N_SHORT <= n_drained < N_ROWS
    assert len(cli.admissions()) == n_drained  # what was begun was finished
    (record,) = ledger.read_runs(open_storage(output))
    assert (record["state"], record["done"]) == ("drained", n_drained)
    lease = open_storage(output).get("lease/00000001.json")
    assert b'"held": false' in lease

    run_here(manifest, output)
    run_here(manifest, whole)

    assert len(clips(output)) == N_ROWS
    hashes = [{row["clip_id"]: row["audio_sha256"] for row in clips(at)} for at in (output, whole)]
    assert hashes[0] == hashes[1]
    assert problems(output) == []


def test_a_run_whose_time_is_over_drains(tmp_path: Path) -> None:
    output = f"file://{tmp_path}/out"
    rows = [{"id": f"r{i}", "prompt": "song", "duration_s": 0.1} for i in range(4)]
    # Of 29 s each, so that no machine makes all of them within that second.
    rows += [row | {"id": f"long-{row['id']}", "duration_s": 29.0} for row in rows]
    manifest = write_manifest(tmp_path / "m.parquet", rows)

    summary = run_here(manifest, output, max_runtime="1s", drain_s=0.1)

    assert summary.drained == "--max-runtime 1s"
    assert summary.tally.clips == n_committed(output) < len(rows)
    (record,) = ledger.read_runs(open_storage(output))
    assert record["state"] == "drained"
    assert open_storage(output).list("attempts") == []
