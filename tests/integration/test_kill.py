"""kill -9 in the middle of a run: nothing lost, nothing doubled, little made again."""

import os
import signal
from pathlib import Path

import pytest

from pipeline import ledger
from pipeline.storage import open_storage
from tests.integration.jobs import Cli, clips, problems, run_here, wait_until, write_manifest
from tests.pipeline.outputs import committed_ids
from tests.reliability.outcomes import Outcomes, fault

N_ROWS, N_SHORT, PART_CLIPS, SLOTS, REPLICAS = 40, 8, 4, 2, 2
SETTINGS = {
    "replicas": REPLICAS, "slots": SLOTS, "part_clips": PART_CLIPS, "block_rows": 4,
    "lease_ttl_s": 3.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clips after the first ones take their time: both kills must meet a run in the middle."""
    rows = [
        {"id": f"r{i:02d}", "prompt": f"song {i}", "duration_s": length + 0.3 * (i % 7)}
        for i, length in enumerate([1.0] * N_SHORT + [3.0] * (N_ROWS - N_SHORT))
    ]
    return write_manifest(tmp_path_factory.mktemp("kill") / "m.parquet", rows)


@pytest.fixture(scope="module")
def uninterrupted(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Hash of the audio of every clip, from a run that nobody disturbed."""
    output = f"file://{tmp_path_factory.mktemp('whole')}/out"
    run_here(manifest, output, **SETTINGS)
    return {row["clip_id"]: row["audio_sha256"] for row in clips(output)}


def parts(output: str) -> dict[str, float]:
    return {info.path: info.mtime for info in ledger.list_parts(open_storage(output))}


def n_committed(output: str) -> int:
    return len(committed_ids(open_storage(output)))


@pytest.mark.long
@fault("process/driver-killed", "kill -9 of the driver and of its Ray", "in mid-run")
@fault("process/replica-killed", "kill -9 of a replica", "in mid-run")
def test_kill_of_the_driver_and_then_of_a_replica(
    manifest: Path, uninterrupted: dict[str, str], tmp_path: Path, cli: Cli, outcomes: Outcomes
) -> None:
    """The same command again, and it bears the loss of a replica: one row per clip, the same bytes,
    parts that stood untouched, and made again at most one uncommitted part and the clips in the
    slots of each replica that died."""
    output = f"file://{tmp_path}/out"
    first = cli.start(*cli.job("run", manifest, output, **SETTINGS))
    wait_until(lambda: n_committed(output) >= N_SHORT)
    assert first.poll() is None, "it must be killed in the middle"
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    cli.wait_for_orphans()
    before, n_admitted = parts(output), len(cli.admissions())
    assert N_SHORT <= n_committed(output) < N_ROWS
    in_vain = n_admitted - n_committed(output)
    assert len(cli.replica_pids()) == REPLICAS

    second = cli.start(*cli.job("run", manifest, output, **SETTINGS))
    wait_until(lambda: len(cli.replica_pids()) == 2 * REPLICAS)
    wait_until(lambda: len(cli.admissions()) > n_admitted + SLOTS)
    victim = cli.busy_replica()  # the other one may have got no block yet, and would not be missed
    assert victim in cli.replica_pids()[-REPLICAS:]
    os.kill(victim, signal.SIGKILL)

    assert second.wait(timeout=240) == 0, cli.said(second)
    rows = clips(output)
    assert len(rows) == N_ROWS
    assert {row["clip_id"]: row["audio_sha256"] for row in rows} == uninterrupted
    assert problems(output) == []
    assert before.items() <= parts(output).items()
    assert len(cli.replica_pids()) == 2 * REPLICAS + 1  # Ray started another one
    deaths = REPLICAS + 1
    assert 0 <= len(cli.admissions()) - N_ROWS <= deaths * (PART_CLIPS + SLOTS)

    wanted, at_risk = [f"r{i:02d}" for i in range(N_ROWS)], PART_CLIPS + SLOTS
    outcomes["process/driver-killed"].told(
        "took over from run on …, which stopped", cli.said(second)
    )
    outcomes["process/driver-killed"].ended(
        output, wanted, exits=["killed", 0], admitted=N_ROWS + in_vain,
        redone_at_most=REPLICAS * at_risk,
    )  # fmt: skip
    outcomes["process/replica-killed"].ended(
        output, wanted, exits=[0], admitted=len(cli.admissions()) - in_vain, redone_at_most=at_risk
    )
