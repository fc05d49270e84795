"""What a run needs is taken from it: it says so in a sentence, and no clip is lost."""

import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from pipeline import ledger
from pipeline.storage import open_storage
from tests.integration.jobs import (
    Cli,
    ids_and_takes,
    problems,
    run_here,
    wait_until,
    write_manifest,
)
from tests.pipeline.outputs import committed_ids
from tests.reliability.outcomes import Outcome, fault

N_ROWS = 12
AGAIN = "in mid-run; the same command again"


def processes_of(name: str, ray_tmp: Path) -> list[int]:
    """Processes of the Ray that keeps its files there."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
        except OSError:
            continue
        if command and Path(command[0].decode()).name == name and str(ray_tmp) in str(command):
            found.append(int(entry.name))
    return found


@pytest.mark.long
@pytest.mark.parametrize(
    ("process", "said"),
    [
        pytest.param(
            "raylet", "Ray's raylet on this machine",
            marks=fault("process/raylet-killed", "kill -9 of Ray's raylet", AGAIN),
        ),
        pytest.param(
            "gcs_server", "Ray's GCS server on this machine",
            marks=fault("process/gcs-killed", "kill -9 of Ray's GCS server", AGAIN),
        ),
    ],
)  # fmt: skip
def test_the_death_of_ray_is_said_in_a_sentence_and_costs_no_clip(
    process: str, said: str, tmp_path: Path, cli: Cli, outcome: Outcome
) -> None:
    output = f"file://{tmp_path}/out"
    rows = [{"id": f"r{i:02d}", "prompt": "x", "duration_s": 6.0} for i in range(N_ROWS)]
    manifest = write_manifest(tmp_path / "m.parquet", rows)
    storage = open_storage(output)
    running = cli.start(*cli.job("run", manifest, output, slots=1, part_clips=1))
    wait_until(lambda: len(committed_ids(storage)) >= 1, timeout_s=240)
    (victim,) = processes_of(process, cli.ray_tmp)
    killed_at = time.monotonic()
    os.kill(victim, signal.SIGKILL)

    assert running.wait(timeout=60) == 1, cli.said(running)
    assert time.monotonic() - killed_at < 30
    errors = [line for line in cli.said(running).splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert said in errors[0]
    assert "the same command goes on from there" in errors[0]
    assert "Traceback" not in cli.said(running)
    wait_until(lambda: not processes_of("raylet", cli.ray_tmp), timeout_s=30)
    assert processes_of("gcs_server", cli.ray_tmp) == []
    (record,) = ledger.read_runs(storage)
    assert record["state"] == "failed"

    cli.wait_for_orphans()
    n_before = len(committed_ids(storage))
    begun = len(cli.admissions())
    again = run_here(manifest, output, lease_ttl_s=1.0)
    assert again.clips == N_ROWS - n_before
    assert ids_and_takes(output) == [(f"r{i:02d}", 0) for i in range(N_ROWS)]
    assert problems(output) == []
    outcome.told(f"error: {said}…; the same command goes on from there", errors[0])
    outcome.ended(
        output, [f"r{i:02d}" for i in range(N_ROWS)], exits=[1, again.exit_code],
        admitted=begun + again.clips, redone_at_most=2,
    )  # fmt: skip


@pytest.mark.long  # tests/pipeline/test_job.py does it without Ray
def test_an_output_that_is_deleted_is_said_to_be_deleted(tmp_path: Path, cli: Cli) -> None:
    output = f"file://{tmp_path}/out"
    rows = [{"id": f"r{i:02d}", "prompt": "x", "duration_s": 3.0} for i in range(N_ROWS)]
    manifest = write_manifest(tmp_path / "m.parquet", rows)
    storage = open_storage(output)
    running = cli.start(*cli.job("run", manifest, output, slots=1, part_clips=1))
    wait_until(lambda: len(committed_ids(storage)) >= 1, timeout_s=240)
    while (tmp_path / "out").exists():
        shutil.rmtree(tmp_path / "out", ignore_errors=True)

    assert running.wait(timeout=60) == 1, cli.said(running)
    said = cli.said(running)
    errors = [line for line in said.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert "was deleted, or moved away, while this run was writing to it" in errors[0]
    assert "taken over" not in said
    assert "Traceback" not in said
