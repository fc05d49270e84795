"""When the job as a whole can't go on: one message, the right exit code, and nothing half done."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from manifests.reader import Manifest
from pipeline import job, ledger
from pipeline.cli.errors import exit_code_of
from pipeline.config import ConfigError
from pipeline.config_file import load_config
from pipeline.ledger.lease import Lease, LeaseLostError
from pipeline.planning.model_limits import inspect_model
from pipeline.replica.actor import Replica
from pipeline.replica.messages import ReplicaSettings
from pipeline.runtime import ray_cluster as cluster
from pipeline.storage import StorageError, open_storage
from tests.integration.jobs import TINY, clips, run_here, run_in_process, write_manifest

ROWS = [{"id": f"r{i}", "prompt": f"song {i}", "duration_s": 0.1} for i in range(6)]


class LosesItsLease(Replica):
    """A replica whose stations end with an error in the middle of a call."""

    error: Exception = LeaseLostError("another run took over")

    def __init__(self, settings: ReplicaSettings) -> None:
        super().__init__(settings)
        assert self.worker is not None
        self.worker.writer.commit = self.fail

    def fail(self, done: Any) -> None:
        raise self.error


class CannotWrite(LosesItsLease):
    error = StorageError("cannot write part: No space left on device")


class CannotLoad(Replica):
    def __init__(self, settings: ReplicaSettings) -> None:
        super().__init__(replace(settings, info=replace(settings.info, weights_hash="f" * 32)))


class Raises(Replica):
    def __call__(self, table: pa.Table) -> pa.Table:
        raise LeaseLostError("this escaped through Ray")


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(
    ("run", "replica", "code", "message"),
    [
        pytest.param(
            run_in_process, LosesItsLease, 4, "another run took over", marks=pytest.mark.long
        ),
        (run_here, CannotWrite, 1, "No space left"),
        (run_here, CannotLoad, 1, "on this node holds other weights"),
        pytest.param(run_in_process, Raises, 1, "this escaped through Ray", marks=pytest.mark.long),
    ],
)
def test_a_replica_that_cannot_go_on_ends_the_job(
    run: Callable[..., Any],
    replica: type,
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(job, "Replica", replica)
    output = f"file://{tmp_path}/out"
    manifest = write_manifest(tmp_path / "m.parquet", ROWS)

    with pytest.raises(Exception, match=message) as caught:
        run(manifest, output)

    assert exit_code_of(caught.value)[0] == code
    assert message in exit_code_of(caught.value)[1]
    (record,) = ledger.read_runs(open_storage(output))
    assert record["state"] == "failed"
    assert clips(output) == []
    with Lease.acquire(open_storage(output)) as lease:  # at once: it was given back
        assert lease.generation == 2


def test_a_checkpoint_that_is_not_whole_is_refused_before_ray_starts(tmp_path: Path) -> None:
    import shutil

    from musicgen.checkpoints.describe import TINY_FOLDER, ModelNotFoundError

    broken = tmp_path / "broken"
    shutil.copytree(TINY_FOLDER, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    flags = TINY | {"model": str(broken), "manifest": "-", "output": "-"}

    with pytest.raises(ModelNotFoundError, match="truncated or damaged"):
        inspect_model(load_config(None, flags))


def test_a_cluster_on_this_machine_is_not_joined_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray would join what `ray start` began here, and refuse our count of CPUs."""
    asked: list[dict[str, Any]] = []
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(cluster.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(cluster.ray, "init", lambda **settings: asked.append(settings))
    config = load_config(None, TINY | {"manifest": "-", "output": "-"})

    cluster.start_ray(config)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    cluster.start_ray(config)

    assert [settings.get("address") for settings in asked] == ["local", None]
    assert "num_cpus" not in asked[1]
    # Nor are the user's own files imported by workers: see tests/packaging/test_wheel.py.
    assert all(isinstance(settings["job_config"], cluster.OwnFolderOnly) for settings in asked)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    with pytest.raises(ConfigError, match=r"RAY_ADDRESS=127.0.0.1:9: no Ray cluster .*unset it"):
        cluster.start_ray(config)


def test_a_manifest_that_is_replaced_while_it_is_read_ends_the_job(tmp_path: Path) -> None:
    path = write_manifest(tmp_path / "m.parquet", ROWS)
    opened = Manifest.open(str(path))
    write_manifest(path, ROWS[:3])

    with pytest.raises(ValueError, match="was replaced while it was being read") as caught:
        list(opened.read_row_group(opened.row_groups[0]))
    assert exit_code_of(caught.value)[0] == 2
