"""An actor of the prepare pool is killed; Ray starts another, and no row is lost."""

import os
import signal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline import job
from pipeline.prepare.actor import Prepare
from pipeline.prepare.messages import PrepareSettings
from tests.integration.jobs import admitted_on_ray, run_in_process, write_manifest
from tests.reliability.outcomes import Outcome, fault

IDS = [f"r{i}" for i in range(8)]


class DiesOnce(Prepare):
    """The first process kills itself while it prepares its first block."""

    def __init__(self, settings: PrepareSettings, *rest: Any) -> None:
        super().__init__(settings, *rest)
        self.mark = Path(settings.spec.manifest.uri).with_name("killed")

    def __call__(self, table: pa.Table) -> Any:
        if not self.mark.exists():
            self.mark.write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(table)


@pytest.mark.long  # a reference that crashes its reader: tests/pipeline/prepare/test_actor.py
@fault("process/prepare-killed", "kill -9 of an actor of the prepare pool", "at its first block")
@pytest.mark.usefixtures("ray_cluster")
def test_the_death_of_a_prepare_actor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outcome: Outcome
) -> None:
    import ray

    monkeypatch.setattr(job, "Prepare", DiesOnce)
    rows = [{"id": id, "prompt": f"song {id}", "duration_s": 0.1} for id in IDS]
    output = f"file://{tmp_path}/out"

    summary = run_in_process(write_manifest(tmp_path / "m.parquet", rows), output)

    killed = int((tmp_path / "killed").read_text())
    assert not Path(f"/proc/{killed}").exists()
    session = ray._private.worker._global_node.get_session_dir_path()
    outcome.ended(output, IDS, exits=[summary.exit_code], admitted=admitted_on_ray(output, session))
