"""The job as one Ray Dataset.

row groups ─► read_rows ─► Prepare pool ─► Replica pool ─► statuses
              Ray tasks    CPU actors      GPU actors
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy

from pipeline.config import JobConfig
from pipeline.prepare.actor import Prepare, read_rows
from pipeline.runtime.ray_actor_id import ray_actor_identity
from pipeline.runtime.ray_cluster import check_resources, gpus_per_replica, start_ray
from pipeline.runtime.runtime import Work

PREPARE_CPUS = 0.5


class RayRuntime:
    """Runs a job on the Ray cluster that RAY_ADDRESS names, else on a local one.

    Args:
        config: The job.
    """

    def __init__(self, config: JobConfig) -> None:
        self._config = config

    def start(self, say: Callable[[str], None]) -> float:
        """See `Runtime.start`."""
        start_ray(self._config)
        check_resources(self._config, say)
        return gpus_per_replica(self._config) * self._config.cluster.replicas

    def statuses(self, work: Work) -> Iterator[pa.Table]:
        """See `Runtime.statuses`; leaving the loop shuts the execution down."""
        dataset = build_dataset(self._config, work)
        yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)

    def close(self) -> None:
        """Nothing: Ray ends its actors when the thread that iterates leaves its loop."""


def build_dataset(config: JobConfig, work: Work) -> ray.data.Dataset:
    """The Ray Dataset of the picture above; iterating it runs the job and yields statuses.

    Both repartitions are strict: without, a manifest that is 99 % done reaches the replicas as one
    huge block, or as hundreds of one-row blocks.
    """
    manifest = work.prepare.spec.manifest
    index = {row_group: position for position, row_group in enumerate(manifest.row_groups)}
    row_groups = [{"row_group": index[row_group]} for row_group in work.row_groups]
    held = ray.put((work.known.clips, work.known.letters))  # one copy per node
    return (
        ray.data.from_items(row_groups, override_num_blocks=min(len(row_groups), 1000))
        .map_batches(
            partial(read_rows, manifest), batch_size=1, batch_format="pyarrow", num_cpus=0.5
        )
        .repartition(target_num_rows_per_block=config.cluster.prepare_block_rows, strict=True)
        .map_batches(
            Prepare,
            fn_constructor_args=(work.prepare, partial(ray.get, held)),
            batch_size=None,
            **prepare_pool(config),
        )
        .repartition(target_num_rows_per_block=config.cluster.block_rows, strict=True)
        .map_batches(
            work.replica_class,
            fn_constructor_args=(replace(work.replica, find_identity=ray_actor_identity),),
            batch_size=config.cluster.block_rows,
            **replica_pool(config),
        )
    )


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
    in_flight = config.tasks_in_flight
    return {
        "batch_format": "pyarrow",
        "num_cpus": config.cluster.cpus_per_replica,
        "num_gpus": gpus_per_replica(config) or None,
        "resources": dict(config.cluster.replica_resources) or None,
        "compute": ActorPoolStrategy(
            size=config.cluster.replicas,
            enable_true_multi_threading=True,
            max_tasks_in_flight_per_actor=in_flight,
            max_concurrent_calls_per_actor=in_flight,
        ),
    }
