"""A replica that a signal stops is replaced, and the run goes on."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from pipeline import job
from pipeline.replica.actor import Replica
from pipeline.replica.messages import ReplicaSettings
from tests.integration.jobs import (
    admitted_on_ray,
    clips,
    ids_and_takes,
    problems,
    run_in_process,
    write_manifest,
)
from tests.reliability.outcomes import Outcome, fault


def audio_s(row: dict[str, Any]) -> float:
    return float(row["n_samples"] / row["sample_rate_hz"])


class StopsOnce(Replica):
    """The first process stops as soon as a clip with the prompt `stop` is in its engine."""

    def __init__(self, settings: ReplicaSettings) -> None:
        super().__init__(settings)
        assert self.worker is not None
        self.step = self.worker.loop.engine.step
        self.worker.loop.engine.step = self.stop_once
        self.mark = Path(settings.config.run.manifest).with_name("stopped")

    def stop_once(self) -> Any:
        clips = self.worker.loop.tasks.values()
        if not self.mark.exists() and any(clip.spec.prompt == "stop" for clip in clips):
            self.mark.write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGSTOP)
        return self.step()


@fault("process/replica-stopped", "a replica stands still (SIGSTOP)", "in mid-run")
@pytest.mark.long
@pytest.mark.usefixtures("ray_cluster")
def test_a_stopped_replica_is_replaced_and_every_clip_is_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outcome: Outcome
) -> None:
    import ray

    monkeypatch.setattr(job, "Replica", StopsOnce)
    rows = [{"id": f"r{i}", "prompt": f"song {i}", "duration_s": 0.2} for i in range(10)]
    rows[5]["prompt"] = "stop"
    output, said = f"file://{tmp_path}/out", list[str]()

    summary = run_in_process(
        write_manifest(tmp_path / "m.parquet", rows),
        output,
        say=said.append,
        hang_timeout_s=10.0,
        stall_timeout_s=240.0,
    )

    assert ids_and_takes(output) == [(f"r{i}", 0) for i in range(10)]
    assert (summary.clips, summary.failed, summary.exit_code) == (10, 0, 0)
    assert summary.audio_s == pytest.approx(sum(audio_s(row) for row in clips(output)))
    assert problems(output) == []
    stopped = int((tmp_path / "stopped").read_text())
    (told,) = [text for text in said if "stood still" in text]
    assert f"(process {stopped})" in told
    assert not Path(f"/proc/{stopped}").exists()
    outcome.told("replica … stood still", told)
    session = ray._private.worker._global_node.get_session_dir_path()
    outcome.ended(
        output, [f"r{i}" for i in range(10)], exits=[summary.exit_code],
        admitted=admitted_on_ray(output, session), redone_at_most=6,
    )  # fmt: skip
