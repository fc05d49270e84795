"""The GPU actor as Ray sees it: prepared rows in, statuses out once the rows are durable.

Ray runs several calls of one actor side by side; they only hand their rows to the worker and wait.
What ends a replica is data too (a status row), so that the driver can say what happened in
its own words instead of a traceback through Ray.
"""

import logging
import os
import threading
import time
from typing import TYPE_CHECKING

import pyarrow as pa

from pipeline import ledger
from pipeline.ledger.attempts import ActorIdentity, AttemptLog, beat_s
from pipeline.ledger.lease import check_held, read_lease
from pipeline.prepare.prepared import from_table
from pipeline.replica.messages import ClipStatus, ReplicaSettings, status_table
from pipeline.storage import StorageError, open_storage

if TYPE_CHECKING:
    from pipeline.replica.worker import ReplicaWorker

log = logging.getLogger(__name__)

LOOKS_PER_S = 500  # at the lease, by all replicas together; each looks once a second at most


class Replica:
    """Ray actor with one model.

    Args:
        settings: The job, the model and the lease.
    """

    def __init__(self, settings: ReplicaSettings) -> None:
        self.settings = settings
        self.worker: ReplicaWorker | None = None
        self.broken: Exception | None = None
        self.drained = False
        try:
            self.identity = settings.find_identity()
            self.attempts = begin_attempts(settings, self.identity)
            threading.Thread(target=self._watch_for_drain, name="drain-watch", daemon=True).start()

            from pipeline.replica import worker  # torch and transformers: seconds
            from pipeline.telemetry import ray_exporter

            self.worker = worker.ReplicaWorker(settings, self.attempts)
            if self.drained:
                self.worker.drain(0.0)
            ray_exporter.export(
                self.worker.samples,
                run_id=settings.run_id,
                replica=self.worker.name,
                closed=self.worker.closed,
            )
        except Exception as error:  # told by the first call
            if "CUDA error" in str(error):
                self.attempts.blame([], f"{type(error).__name__}: {error}")
                os._exit(1)  # Ray starts a new actor; a clean exit would leave a zombie slot
            self.broken = error

    def __call__(self, table: pa.Table) -> pa.Table:
        try:
            if self.worker is None:
                raise self.broken or RuntimeError("the replica has no model")
            ray_task = self.worker.accept(from_table(table))
            ray_task.done.result()
        except Exception as error:  # ends the job: see `runtime.watch`
            return status_table([ClipStatus.fatal(error)])
        return status_table(ray_task.statuses, self.worker.name, self.worker.times)

    def _watch_for_drain(self) -> None:
        """Waits until the run drains, or the node goes away, and says meanwhile that this process
        lives."""
        config, generation = self.settings.config, self.settings.lease_generation
        storage = open_storage(config.run.output, config.run.storage_options)
        interval_s = max(1.0, config.cluster.replicas / LOOKS_PER_S)
        next_beat = 0.0
        while not self._is_over():
            time.sleep(interval_s)
            try:
                lease = read_lease(storage, generation)
                if lease is None or not lease.held:
                    return  # the run has ended, and its records are removed: this writes no more
                if time.monotonic() >= next_beat:
                    self.attempts.beat()
                    next_beat = time.monotonic() + beat_s(config.run.hang_timeout_s)
                left_s = self.identity.seconds_left(self.identity.node)
                if left_s is not None:
                    return self._leave_node(min(config.run.drain_s, left_s / 2))
                if lease.draining:
                    return self._drain(config.run.drain_s)
            except StorageError as error:
                log.warning("could not see whether the run drains: %s", error)

    def _is_over(self) -> bool:
        return self.broken is not None or (self.worker is not None and self.worker.closed.is_set())

    def _drain(self, grace_s: float) -> None:
        log.info("replica=%s drains", self.attempts.now.replica)
        self.drained = True
        if self.worker is not None:  # else it is loading, and has nothing in hand
            self.worker.drain(grace_s)
        self.attempts.end("drained")

    def _leave_node(self, grace_s: float) -> None:
        """Commits what is finished and goes: Ray starts this actor again on another node, and sends
        it what is not durable."""
        log.info("replica=%s leaves node %s", self.attempts.now.replica, self.attempts.now.node)
        if self.worker is not None:
            self.worker.drain(grace_s, hand_back=False)
        self.attempts.end("node")
        os._exit(1)


def begin_attempts(settings: ReplicaSettings, identity: ActorIdentity) -> AttemptLog:
    """Begins the attempt record of this process.

    Raises:
        LeaseLostError, OutputGoneError: The run is over.
        RepeatedDeathsError: See `AttemptLog.begin`.
    """
    config = settings.config
    storage = open_storage(config.run.output, config.run.storage_options)
    # Ray may start an actor anew while its run ends, whose records are removed then.
    check_held(storage, settings.lease_generation, settings.lease_token)
    name = ledger.new_replica_id()
    return AttemptLog.begin(storage, settings.run_id, name, identity, config.run.max_deaths)
