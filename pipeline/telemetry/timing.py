"""Where the time of replicas goes, and how full their slots are.

A replica keeps one `ReplicaTimes`, whose sums only grow, and sends a copy with every status row.
The driver adds up the latest copy of each replica (`RunTimes`). The figures of a run:

- window: the time from the first admission of a clip into an engine to the last commit, over all
  replicas.
- model time: seconds of clock time that decode loops spend inside the engine. Text encoding, the
  codec, audio encoding and commits run in other threads. What they take from the loop (cores, the
  interpreter's lock) makes its steps slower. Therefore `model_cpu_s` gives the processor time of
  the loop's own thread as well; with one thread per replica it holds all the work of the steps.
- overhead: 1 - model time / (replicas x window). It is the time spent waiting: for rows, for a
  commit, for the slowest replica at the end.
- slot occupancy: the share of the engine's batch rows that clips held, over the steps before the
  latest admission. Later steps are left out, because no clip was left to fill the slots with.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_type_hints

import pyarrow as pa

Beside = Literal["conditioning_s", "decode_s", "encode_s", "commit_s"]


@dataclass
class ReplicaTimes:
    """The times of one replica so far: durations in seconds, moments in seconds since 1970.

    Attributes:
        first_admission: When its first clip entered the engine.
        last_commit: When its latest part was published.
        model_s: Time of the decode loop inside the engine.
        model_cpu_s: Processor time of the loop's thread in there.
        conditioning_s: Time to make a request of a row: text encoding, melody, style.
        decode_s: Time to decode codec tokens to audio.
        encode_s: Time to measure and encode audio.
        commit_s: Time to publish parts.
        offered_rows: Batch rows of the engine, summed over the steps before the latest admission.
        held_rows: How many of these clips held.
    """

    first_admission: float | None = None
    last_commit: float | None = None
    model_s: float = 0.0
    model_cpu_s: float = 0.0
    conditioning_s: float = 0.0
    decode_s: float = 0.0
    encode_s: float = 0.0
    commit_s: float = 0.0
    offered_rows: int = 0
    held_rows: int = 0

    @contextmanager
    def model(self) -> Iterator[None]:
        """Times what the decode loop does inside the engine."""
        started, worked = time.perf_counter(), time.thread_time()
        try:
            yield
        finally:
            self.model_s += time.perf_counter() - started
            self.model_cpu_s += time.thread_time() - worked

    @contextmanager
    def beside(self, what: Beside) -> Iterator[None]:
        """Times work beside the decode loop; each kind is done by one thread."""
        started = time.perf_counter()
        try:
            yield
        finally:
            setattr(self, what, getattr(self, what) + time.perf_counter() - started)

    def admitted(self, offered_rows: int, held_rows: int) -> None:
        """Notes that a clip enters the engine, and the sums of its batch rows so far."""
        self.first_admission = self.first_admission or time.time()
        self.offered_rows, self.held_rows = offered_rows, held_rows

    def committed(self) -> None:
        """Notes that a part was published just now."""
        self.last_commit = time.time()


_ARROW = {float: pa.float64(), int: pa.int64(), float | None: pa.float64()}
TIMES_TYPE = pa.struct(
    [(f.name, _ARROW[get_type_hints(ReplicaTimes)[f.name]]) for f in fields(ReplicaTimes)]
)


@dataclass
class RunTimes:
    """The times of all replicas of a run: the latest copy from each."""

    replicas: dict[str, ReplicaTimes] = field(default_factory=dict)

    def update(self, replica: str, columns: Mapping[str, Any]) -> None:
        """Takes the times of a replica from a status row, unless newer ones are known: status rows
        arrive out of order."""
        times, known = ReplicaTimes(**columns), self.replicas.get(replica)
        if known is None or (times.model_s, times.commit_s) >= (known.model_s, known.commit_s):
            self.replicas[replica] = times

    @property
    def first_admission(self) -> float | None:
        """When the first clip entered an engine, seconds since 1970."""
        return min(
            (t.first_admission for t in self.replicas.values() if t.first_admission), default=None
        )

    @property
    def window_s(self) -> float:
        """From the first admission to the last commit; 0 before that."""
        last = max((t.last_commit for t in self.replicas.values() if t.last_commit), default=0.0)
        return max(0.0, last - (self.first_admission or last))

    @property
    def slot_occupancy(self) -> float | None:
        """Share of rows held while rows waited; None before the first steps."""
        offered = sum(t.offered_rows for t in self.replicas.values())
        return sum(t.held_rows for t in self.replicas.values()) / offered if offered else None

    def overhead(self, n_replicas: int, *, cpu: bool = False) -> float | None:
        """Share of the window in which the model did not run; None before the first commit.

        Args:
            n_replicas: Replicas that the run has.
            cpu: Count processor time of the decode loops instead of clock time.
        """
        model_s = sum(t.model_cpu_s if cpu else t.model_s for t in self.replicas.values())
        return 1 - model_s / (n_replicas * self.window_s) if self.window_s else None

    def seconds(self) -> dict[str, float]:
        """Seconds by kind of work, over all replicas."""
        kinds = [f.name for f in fields(ReplicaTimes) if f.name.endswith("_s")]
        return {kind: sum(getattr(t, kind) for t in self.replicas.values()) for kind in kinds}
