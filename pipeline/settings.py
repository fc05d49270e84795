"""What the driver tells its workers once, when they start. Free of torch."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pyarrow as pa

from musicgen.files import ModelInfo
from pipeline.config import JobConfig
from pipeline.expand import PlanSpec
from pipeline.ledger import new_replica_id
from pipeline.ledger.attempts import Seat


def lone_seat() -> Seat:
    """A seat that nobody had before, for a replica that no cluster looks after."""
    return Seat(new_replica_id())


@dataclass(frozen=True)
class PrepareSettings:
    """What every actor of the prepare pool is told."""

    spec: PlanSpec
    info: ModelInfo
    repeats: dict[int, int]
    retry: bool


@dataclass(frozen=True)
class ReplicaSettings:
    """What every replica is told."""

    config: JobConfig
    info: ModelInfo
    run_id: str
    lease_generation: int
    lease_token: str
    schema: pa.Schema  # of clips/
    attempts: dict[str, int] = field(default_factory=dict)  # earlier attempts by row key
    find_seat: Callable[[], Seat] = lone_seat  # asked by the replica itself
