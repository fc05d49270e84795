"""The seam between a job and the place where it runs: what a runtime is given, and what it does."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from manifests.reader import RowGroup
from pipeline.ledger import DoneSet
from pipeline.ledger.attempts import Attempt
from pipeline.planning.pool import Pool
from pipeline.prepare.actor import Prepare
from pipeline.prepare.messages import PrepareSettings
from pipeline.replica.actor import Replica
from pipeline.replica.messages import ReplicaSettings
from pipeline.telemetry.metrics import Sample


@dataclass(frozen=True)
class Work:
    """Everything that a job hands to its runtime.

    Attributes:
        row_groups: The parts of the manifest in which something is left to do.
        prepare: What each actor of the prepare pool is told.
        replica: What each replica is told; the runtime says who the replica is.
        known: Clips and dead letters that stand in the ledger already.
        replica_class: Makes clips of prepared rows.
        prepare_class: Makes prepared rows of those of the manifest.
        refused: Rows that the scan refused, as counters for the metrics.
    """

    row_groups: list[RowGroup]
    prepare: PrepareSettings
    replica: ReplicaSettings
    known: DoneSet
    replica_class: type[Replica]
    prepare_class: type[Prepare]
    refused: Sequence[Sample] = ()


class Runtime(Protocol):
    """Runs read_rows, the prepare pool and the replicas on the rows of one job."""

    def pool(self, n_rows: int) -> Pool:
        """Where a manifest of so many rows is scanned, before the job is started."""
        ...

    def start(self, say: Callable[[str], None]) -> float:
        """Gets hold of the machines; returns how many GPUs all replicas hold together.

        Raises:
            ConfigError: The replicas can't be placed.
        """
        ...

    def statuses(self, work: Work) -> Generator[pa.Table]:
        """Runs the job while it is iterated, and ends it when it is closed; yields tables of
        STATUS_SCHEMA, of rows that are durable and of what ends a replica."""
        ...

    def waits_for(self, n_done: int) -> str | None:
        """What the user is to read about work that has no place, if anything; asked every few
        seconds while the job runs.

        Args:
            n_done: Takes that are durable.

        Raises:
            ConfigError, NoPlaceError: The work will never have a place.
        """
        ...

    def end_process(self, attempt: Attempt) -> bool:
        """Ends the process of a replica that stands still, so that it starts anew. False where it
        is gone, or can't be ended."""
        ...

    def check(self) -> None:
        """Raises an error that says so where what the job runs on is gone. Asked several times a
        second."""
        ...

    def close(self) -> None:
        """Ends what still runs; may be called from another thread than `statuses`."""
        ...
