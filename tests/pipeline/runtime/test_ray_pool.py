"""A manifest is scanned by Ray tasks where the cluster is there already."""

import os
import random
import signal
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest
import ray

from manifests.reader import ManifestError
from pipeline.config_file import load_config
from pipeline.planning import scan
from pipeline.planning.expand import Selection
from pipeline.planning.pool import IsOver, LocalPool, PlanningError, Pool
from pipeline.runtime import open_runtime, ray_dataset
from pipeline.runtime.ray_pool import RayPool
from tests.integration.jobs import wait_until
from tests.pipeline.planning.manifests import plan_row_by_row, some_stand, spec_of

N_CPUS = 2


def die() -> None:
    """Ends this process, which must be a worker of Ray's and not that of the tests."""
    assert ray.get_runtime_context().worker.mode == ray.WORKER_MODE
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class DieOnce:
    """An action that ends its process when it has a task for the first time."""

    folder: Path

    def __call__(self, task: int, is_over: IsOver) -> int:
        mark = self.folder / str(task)
        if not mark.exists():
            mark.write_text(str(os.getpid()))
            die()
        return task * task


@dataclass(frozen=True)
class Die:
    """An action that ends its process each time."""

    def __call__(self, task: int, is_over: IsOver) -> int:
        die()
        return task


def pool_of(n_rows: int) -> Pool:
    """The pool that a job on this cluster takes. Workers of earlier tests may still hold CPUs."""
    wait_until(lambda: ray.available_resources().get("CPU", 0) == ray.cluster_resources()["CPU"])
    return open_pool(n_rows)


def open_pool(n_rows: int) -> Pool:
    flags = {"manifest": "m.parquet", "output": "memory://none", "model": "tiny"}
    return open_runtime(load_config(None, flags)).pool(n_rows)


class Holder:
    """An actor that does nothing."""


@pytest.fixture(autouse=True)
def a_machine_of_two_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer than the cluster has, whatever machine this is."""
    monkeypatch.setattr(ray_dataset, "usable_cpus", lambda: N_CPUS)


@pytest.mark.usefixtures("ray_cluster")
class TestOnACluster:
    def test_a_plan_of_ray_tasks_is_that_row_by_row(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(scan, "FEWEST_ROWS", 100)
        draw = random.Random(3)
        rows = {
            "id": [f"r{draw.randrange(900)}" for _ in range(1000)],
            "prompt": [draw.choice(["x", "y", None]) for _ in range(1000)],
            "takes": [draw.choice([1, 2]) for _ in range(1000)],
        }
        spec = spec_of(tmp_path / "m.parquet", pa.table(rows), 60)
        selection = Selection(some_stand(draw, plan_row_by_row(spec)))
        wanted = plan_row_by_row(spec, selection)
        pool = pool_of(10**6)
        assert not isinstance(pool, LocalPool)

        plan = scan.scan(spec, selection, pool)

        assert plan.outcomes == wanted.outcomes
        assert plan.letters == wanted.letters
        assert plan.repeats == wanted.repeats
        assert isinstance(pool_of(1000), LocalPool)  # not worth Ray's workers

    def test_faults_of_the_manifest_come_through(self, tmp_path: Path) -> None:
        spec = spec_of(tmp_path / "m.parquet", pa.table({"prompt": ["x"] * 9}), 3)
        spec_of(tmp_path / "m.parquet", pa.table({"prompt": ["y"] * 10}), 3)
        selection = Selection(some_stand(random.Random(1), plan_row_by_row(spec_of(
            tmp_path / "n.parquet", pa.table({"prompt": ["x"]}), 3
        ))))  # fmt: skip
        with pytest.raises(ManifestError, match="was replaced while it was being read"):
            scan.scan(spec, selection, pool_of(10**6))

    def test_a_worker_that_dies_loses_no_task(self, tmp_path: Path) -> None:
        found = dict(filter(None, RayPool().run(DieOnce(tmp_path), [1, 2, 3])))
        assert found == {0: 1, 1: 4, 2: 9}

    def test_rows_that_end_every_worker_end_the_scan_in_a_sentence(self) -> None:
        with pytest.raises(PlanningError, match="a Ray task that scans the manifest was lost 4"):
            list(RayPool().run(Die(), [1]))

    def test_a_cluster_without_more_free_cpus_than_this_machine_is_left_alone(self) -> None:
        assert isinstance(pool_of(10**6), RayPool)
        holds = ray.remote(num_cpus=ray.cluster_resources()["CPU"] - N_CPUS)(Holder).remote()
        ray.get(holds.__ray_ready__.remote())
        try:
            assert isinstance(open_pool(10**6), LocalPool)
        finally:
            ray.kill(holds)
