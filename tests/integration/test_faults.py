"""Rows that end, hang or fill the process that makes them, among good neighbours, on Ray."""

import os
import resource
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from pipeline import job, ledger
from pipeline.replica.actor import Replica
from pipeline.replica.messages import ReplicaSettings
from pipeline.storage import open_storage
from tests.integration.jobs import (
    admitted_on_ray,
    ids_and_takes,
    problems,
    run_in_process,
    write_manifest,
)
from tests.reliability.outcomes import Outcome, fault

HARMFUL = ("kills", "hangs", "fills the memory")


class Poisoned(Replica):
    """A replica on which rows with certain prompts do harm; nothing of this is in the product."""

    def __init__(self, settings: ReplicaSettings) -> None:
        super().__init__(settings)
        assert self.worker is not None
        self.step, self.finished = self.worker.loop.engine.step, self.worker.finisher.finished
        self.worker.loop.engine.step = self.harmful_step
        self.worker.finisher.finished = self.greedily_finished

    def harmful_step(self) -> Any:
        jobs = self.worker.loop.tasks.values()
        harms = {job.spec.prompt for job in jobs if job.admitted_at is not None}
        if "kills" in harms:
            os.kill(os.getpid(), signal.SIGKILL)
        if "hangs" in harms:
            threading.Event().wait()
        return self.step()

    def greedily_finished(self, job: Any, codes: Any) -> Any:
        if job.spec.prompt == "fills the memory":
            soft, hard = resource.getrlimit(resource.RLIMIT_AS)
            resource.setrlimit(resource.RLIMIT_AS, (1 << 40, hard))
            try:
                bytearray(1 << 41)
            finally:
                resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        return self.finished(job, codes)


@fault("rows/harmful", "rows that kill, hang or fill the process that makes them", "3 of 20 rows")
@pytest.mark.long  # seven starts of an actor; tests/pipeline/test_faults.py does it without Ray
@pytest.mark.usefixtures("ray_cluster")
def test_harmful_rows_are_kept_out_and_their_neighbours_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outcome: Outcome
) -> None:
    """Two replicas: the harmful rows meet mates, make them suspects, and die alone."""
    import ray

    monkeypatch.setattr(job, "Replica", Poisoned)
    table = [{"id": f"r{i:02d}", "prompt": f"song {i}", "duration_s": 0.2} for i in range(20)]
    for at, harm in zip((3, 10, 17), HARMFUL, strict=True):
        table[at]["prompt"] = harm
    output = f"file://{tmp_path}/out"

    summary = run_in_process(
        write_manifest(tmp_path / "m.parquet", table), output, replicas=2, hang_timeout_s=2.0
    )

    good = [(row["id"], 0) for row in table if row["prompt"] not in HARMFUL]
    assert ids_and_takes(output) == good
    assert (summary.tally.clips, summary.tally.failed) == (17, 3)
    stages = {
        row["id"]: row["stage"]
        for row in ledger.read_dead_letters(open_storage(output)).to_pylist()
    }
    assert stages == {"r03": "quarantine", "r10": "quarantine", "r17": "encode"}
    assert problems(output) == []
    assert open_storage(output).list("attempts") == []
    letters = ledger.read_dead_letters(open_storage(output)).to_pylist()
    (killed,) = (row["message"] for row in letters if row["id"] == "r03")
    outcome.told("kept out after 2 attempts: …this row was the only one at work", killed)
    session = ray._private.worker._global_node.get_session_dir_path()
    outcome.ended(
        output, [str(row["id"]) for row in table], exits=[summary.exit_code],
        letters=["r03", "r10", "r17"], admitted=admitted_on_ray(output, session),
        redone_at_most=40,
    )  # fmt: skip
