"""The job as one Ray Dataset.

row groups ─► read_rows ─► Prepare pool ─► Replica pool ─► statuses
              Ray tasks    CPU actors      GPU actors
"""

from functools import partial

import ray
from ray.data import ActorPoolStrategy

from pipeline.config import JobConfig
from pipeline.ledger import DoneSet
from pipeline.planning.scan import Plan
from pipeline.prepare.actor import Prepare, read_rows
from pipeline.prepare.messages import PrepareSettings
from pipeline.replica.messages import ReplicaSettings
from pipeline.runtime.ray_cluster import gpus_per_replica


def build_dataset(
    config: JobConfig,
    plan: Plan,
    prepare: PrepareSettings,
    replica: ReplicaSettings,
    known: DoneSet,
    replica_class: type,
) -> ray.data.Dataset:
    """The Ray Dataset of the picture above; iterating it runs the job and yields statuses.

    Both repartitions are strict: without, a manifest that is 99 % done reaches the replicas as one
    huge block, or as hundreds of one-row blocks. All three settings of the replica pool are needed
    for calls to run side by side, which is what keeps the slots full from one task to the next.
    """
    manifest = prepare.spec.manifest
    index = {row_group: position for position, row_group in enumerate(manifest.row_groups)}
    row_groups = [{"row_group": index[row_group]} for row_group in plan.row_groups]
    in_flight = config.tasks_in_flight
    held = ray.put((known.clips, known.letters))  # one copy per node
    return (
        ray.data.from_items(row_groups, override_num_blocks=min(len(row_groups), 1000))
        .map_batches(
            partial(read_rows, manifest), batch_size=1, batch_format="pyarrow", num_cpus=0.5
        )
        .repartition(target_num_rows_per_block=config.cluster.prepare_block_rows, strict=True)
        .map_batches(
            Prepare,
            fn_constructor_args=(prepare, partial(ray.get, held)),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=0.5,
            compute=ActorPoolStrategy(size=config.cluster.prepare_workers),
        )
        .repartition(target_num_rows_per_block=config.cluster.block_rows, strict=True)
        .map_batches(
            replica_class,
            fn_constructor_args=(replica,),
            batch_size=config.cluster.block_rows,
            batch_format="pyarrow",
            num_cpus=config.cluster.cpus_per_replica,
            num_gpus=gpus_per_replica(config) or None,
            resources=dict(config.cluster.replica_resources) or None,
            compute=ActorPoolStrategy(
                size=config.cluster.replicas,
                enable_true_multi_threading=True,
                max_tasks_in_flight_per_actor=in_flight,
                max_concurrent_calls_per_actor=in_flight,
            ),
        )
    )
