"""The job as one Ray Dataset.

row groups ─► read_rows ─► Prepare pool ─► Replica pool ─► statuses
              Ray tasks    CPU actors      GPU actors
"""

import os
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import replace
from functools import partial
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy

from pipeline.config import JobConfig
from pipeline.ledger.attempts import Attempt
from pipeline.planning.pool import LocalPool, Pool, usable_cpus
from pipeline.prepare.actor import read_rows
from pipeline.runtime.placement import PREPARE_CPUS, TASK_CPUS, demand_of
from pipeline.runtime.ray_actor_id import ray_actor_identity
from pipeline.runtime.ray_cluster import gpus_per_replica, is_started_here, start_ray
from pipeline.runtime.ray_health import RayGoneError, RayHealth
from pipeline.runtime.ray_kill import end_process_of
from pipeline.runtime.ray_nodes import ClusterReader
from pipeline.runtime.ray_pool import RayPool
from pipeline.runtime.runtime import Work
from pipeline.runtime.waiting import WaitWatch, check_start
from pipeline.telemetry import ray_exporter

ROWS_FOR_RAY = 200_000  # fewer are scanned here before Ray's workers have started


class RayRuntime:
    """Runs a job on the Ray cluster that RAY_ADDRESS names, else on a local one.

    Args:
        config: The job.
    """

    def __init__(self, config: JobConfig) -> None:
        self._config = config
        self._reader: ClusterReader | None = None  # these are set by `start`
        self._waits: WaitWatch | None = None
        self._kinds: dict[str, str] = {}  # of actors, by class
        self._health: RayHealth | None = None
        self._closed = threading.Event()

    def pool(self, n_rows: int) -> Pool:
        """See `Runtime.pool`: on a cluster that is there already and has more free CPUs than this
        machine, where many rows are to be read. No Ray is started for it."""
        is_there = ray.is_initialized() or "RAY_ADDRESS" in os.environ
        if is_there and n_rows >= ROWS_FOR_RAY:
            start_ray(self._config)
            if ray.available_resources().get("CPU", 0) > usable_cpus():
                return RayPool()
        return LocalPool()

    def start(self, say: Callable[[str], None]) -> float:
        """See `Runtime.start`."""
        start_ray(self._config)
        gpus = gpus_per_replica(self._config)
        demand = demand_of(self._config, gpus)
        self._reader, self._waits = ClusterReader(), WaitWatch(demand)
        self._health = RayHealth()
        check_start(demand, self._reader.cluster, say, may_grow=not is_started_here())
        return gpus * demand.replicas

    def statuses(self, work: Work) -> Generator[pa.Table]:
        """See `Runtime.statuses`."""
        self._kinds = {
            work.prepare_class.__name__: "prepare actor",
            work.replica_class.__name__: "replica",
        }
        dataset = build_dataset(self._config, work)
        run_id = work.replica.run_id
        ray_exporter.export(
            lambda: [*work.refused], run_id=run_id, replica="driver", closed=self._closed
        )
        yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)

    def waits_for(self, n_done: int) -> str | None:
        """See `Runtime.waits_for`."""
        if self._reader is None or self._waits is None:
            return None
        cluster = self._reader.cluster()
        if cluster is None:
            return None
        held = self._reader.placed(self._kinds) if cluster.queued else {}
        return self._waits.look(cluster, held, n_done, time.monotonic())

    def end_process(self, attempt: Attempt) -> bool:
        """See `Runtime.end_process`."""
        return end_process_of(attempt)

    def check(self) -> None:
        """See `Runtime.check`; RayGoneError where Ray is no longer there."""
        if self._health is not None:
            self._health.check()

    def close(self) -> None:
        """Ray ends its actors when the thread that iterates leaves its loop, if it still can."""
        self._closed.set()
        try:
            self.check()
        except RayGoneError:
            assert self._health is not None
            self._health.end_ours()


def build_dataset(config: JobConfig, work: Work) -> ray.data.Dataset:
    """The Ray Dataset of the picture above; iterating it runs the job and yields statuses.

    Both repartitions are strict: without, a manifest that is 99 % done reaches the replicas as one
    huge block, or as hundreds of one-row blocks.
    """
    manifest = work.prepare.spec.manifest
    index = {row_group: position for position, row_group in enumerate(manifest.row_groups)}
    row_groups = [{"row_group": index[row_group]} for row_group in work.row_groups]
    known = work.known
    held = ray.put((known.clips, known.letters, known.rulings))  # one copy per node
    dataset = ray.data.from_items(row_groups, override_num_blocks=min(len(row_groups), 1000))
    rows = dataset.map_batches(
        partial(read_rows, manifest), batch_size=1, batch_format="pyarrow", num_cpus=TASK_CPUS
    )
    prepared = cut(rows, config.cluster.prepare_block_rows).map_batches(
        work.prepare_class,
        fn_constructor_args=(work.prepare, partial(ray.get, held)),
        batch_size=None,
        **prepare_pool(config),
    )
    return cut(prepared, config.cluster.block_rows).map_batches(
        work.replica_class,
        fn_constructor_args=(replace(work.replica, find_identity=ray_actor_identity),),
        batch_size=config.cluster.block_rows,
        **replica_pool(config),
    )


def cut(dataset: ray.data.Dataset, n_rows: int) -> ray.data.Dataset:
    """The dataset in blocks of `n_rows`, cut by tasks that ask for TASK_CPUS."""
    blocks = dataset.repartition(target_num_rows_per_block=n_rows, strict=True)
    # `repartition` has no parameter for it: its tasks would ask for a whole CPU, which a small
    # cluster has not left beside the actors.
    blocks._logical_plan.dag.ray_remote_args["num_cpus"] = TASK_CPUS
    return blocks


def prepare_pool(config: JobConfig) -> dict[str, Any]:
    """How `map_batches` runs the prepare pool."""
    return {
        "batch_format": "pyarrow",
        "num_cpus": PREPARE_CPUS,
        "compute": ActorPoolStrategy(size=config.cluster.prepare_workers),
    }


def replica_pool(config: JobConfig) -> dict[str, Any]:
    """How `map_batches` runs replicas. All three settings of the pool are needed for calls to run
    side by side, which is what keeps the slots full from one task to the next."""
    gpus = gpus_per_replica(config)
    in_flight = config.tasks_in_flight(on_gpu=gpus > 0)
    return {
        "batch_format": "pyarrow",
        "num_cpus": config.cluster.cpus_per_replica,
        "num_gpus": gpus or None,
        "resources": dict(config.cluster.replica_resources) or None,
        "compute": ActorPoolStrategy(
            size=config.cluster.replicas,
            enable_true_multi_threading=True,
            max_tasks_in_flight_per_actor=in_flight,
            max_concurrent_calls_per_actor=in_flight,
        ),
    }
