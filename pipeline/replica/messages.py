"""What the driver tells every replica once, when it starts. Free of torch."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pyarrow as pa

from musicgen.checkpoints.describe import ModelInfo
from pipeline.config import JobConfig
from pipeline.ledger import new_replica_id
from pipeline.ledger.attempts import ActorIdentity


def lone_identity() -> ActorIdentity:
    """A new identity, for a replica that does not run as a Ray actor."""
    return ActorIdentity(new_replica_id())


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
    find_identity: Callable[[], ActorIdentity] = lone_identity  # asked by the replica itself
