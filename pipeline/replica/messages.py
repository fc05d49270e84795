"""What the driver tells every replica once, and what a replica answers. Free of torch."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import pyarrow as pa

from musicgen.checkpoints.describe import ModelInfo
from pipeline.audio.scores.protocol import ScorerIdentity
from pipeline.config import JobConfig
from pipeline.ledger import new_replica_id
from pipeline.ledger.attempts import ActorIdentity
from pipeline.telemetry.timing import TIMES_TYPE, ReplicaTimes


def lone_identity() -> ActorIdentity:
    """An identity that is new each time, for a replica that no cluster restarts."""
    return ActorIdentity(new_replica_id())


@dataclass(frozen=True)
class ReplicaSettings:
    """What every replica is told.

    Attributes:
        schema: Arrow schema of `clips/`.
        attempts: How often rows have failed in earlier runs, by row key.
        find_identity: Asked by the replica itself, where it runs.
        scorers: Those that the config names, as the driver found them.
        c2pa_certificate: Fingerprint of the certificate that clips are signed with, which the
            replica finds in its own environment; None where the job does not sign.
    """

    config: JobConfig
    info: ModelInfo
    run_id: str
    lease_generation: int
    lease_token: str
    schema: pa.Schema
    attempts: dict[str, int] = field(default_factory=dict)
    find_identity: Callable[[], ActorIdentity] = lone_identity
    scorers: tuple[ScorerIdentity, ...] = ()
    c2pa_certificate: str | None = None


StatusKind = Literal["clip", "letter", "known", "aside", "held", "drained", "fatal"]


@dataclass(frozen=True)
class ClipStatus:
    """What became of one row.

    Attributes:
        status: `clip` or `letter` (committed by this replica), `known` (committed before, or asked
            for twice), `aside` (judged with the other takes of its row, scored and not kept),
            `held` (waits for these, which no driver is told), `drained` (left undone), `fatal` (the
            replica can't go on).
        audio_s: Seconds of audio that were committed.
        error_class, error: Why the replica can't go on.
    """

    status: StatusKind
    clip_id: str | None = None
    audio_s: float | None = None
    error_class: str | None = None
    error: str | None = None

    def as_known(self) -> "ClipStatus":
        """The same for a row that asks for a clip which another row brought in hand first."""
        is_same = self.status in ("drained", "aside")
        return self if is_same else replace(self, status="known", audio_s=None)

    @classmethod
    def fatal(cls, error: Exception) -> "ClipStatus":
        """Ends the job."""
        return cls("fatal", error_class=type(error).__name__, error=str(error))


STATUS_SCHEMA = pa.schema(
    [
        ("status", pa.string()),
        ("clip_id", pa.string()),
        ("audio_s", pa.float64()),
        ("error_class", pa.string()),
        ("error", pa.string()),
        ("replica", pa.string()),
        ("times", TIMES_TYPE),  # of this replica so far
    ]
)


def status_table(
    statuses: Sequence[ClipStatus], replica: str | None = None, times: ReplicaTimes | None = None
) -> pa.Table:
    """Statuses as Ray carries them to the driver, signed with the replica and, in the first row,
    its times so far."""
    told = None if times is None else asdict(times)
    rows = [vars(status) | {"replica": replica, "times": None} for status in statuses]
    if rows:
        rows[0]["times"] = told
    return pa.Table.from_pylist(rows, schema=STATUS_SCHEMA)


def read_statuses(table: pa.Table) -> Iterator[tuple[ClipStatus, str, Mapping[str, Any] | None]]:
    """Each status with the replica's name and times, as `status_table` wrote them."""
    for row in table.to_pylist():
        replica, times = row.pop("replica"), row.pop("times")
        yield ClipStatus(**row), replica, times
