"""Attempt records: which clips a replica is working on, written before any can crash its process.

There is one object per Ray actor, `attempts/<run_id>/<actor>.json`. Ray starts an actor again under
the same identity when its process dies, and the new process reads in the record which clips the
dead one was working on.

* Where several clips were in work when a process died, they become *suspects*. They run again
  without other clips beside them, in groups of an eighth of their number, so up to eight suspects
  run one by one.
* Where a single clip was in work, the death counts against its row. After two such deaths the row
  is not tried again (quarantine).
* A living process writes its record again and again (`beat`), also when nothing else changes. The
  driver ends one whose record stays as it is: see `runtime.silence`.
* The end of a run, a drain and the loss of a node are no such deaths: a record belongs to one run,
  a drained replica says so in its record, and the record of a lost node is not counted.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from pipeline.ledger.commits import ActorCommits
from pipeline.storage import THREADS, ObjectNotFoundError, Storage, StorageError

FOLDER = "attempts"
QUARANTINE = "quarantine"  # stage of a dead letter
DEATHS_ALONE = 2  # a row is kept out after so many deaths while it was the only one in work
UNKNOWN_REASON = "killed, or crashed in native code"  # the reason where a process recorded none
GROUPS = 8  # suspects run again in so many groups


BEATS_PER_TIMEOUT = 5  # how often a process says that it lives, within --hang-timeout-s


def beat_s(hang_timeout_s: float) -> float:
    """Seconds from one word of a living process to the next."""
    return hang_timeout_s / BEATS_PER_TIMEOUT


class RepeatedDeathsError(RuntimeError):
    """The process of a replica died several times in a row without finishing a clip."""


class QuarantinedError(RuntimeError):
    """A row whose generation crashes the process."""


def _stays(node: str) -> float | None:
    return None


@dataclass(frozen=True)
class ActorIdentity:
    """Which actor a process is; a process that replaces it after a crash has the same name.

    Attributes:
        name: Ray's id of the actor, the same after a restart.
        node: Ray's id of the node that the process runs on.
        seconds_left: Tells how long a node will still exist, 0 if it is gone; None where no end is
            known.
    """

    name: str
    node: str = ""
    seconds_left: Callable[[str], float | None] = _stays


@dataclass(frozen=True)
class Attempt:
    """The content of a record: the work of one process of an actor.

    Attributes:
        replica: Name of the process.
        node: Where it runs.
        clips: Ids of the clips in work: being conditioned, generated, decoded or encoded.
        alone: Whether `clips` is a single clip that runs without others on purpose.
        suspects: Ids of clips that were in work when an earlier process died, and that have not
            run again yet.
        deaths_alone: Reasons of the deaths that count against a clip, by clip id.
        deaths: How many processes of this actor in a row died without committing a clip.
        last_words: The reason that the process recorded before it ended itself.
        ended: Why it ended in order; None while it runs, and if it died.
        earlier: Names of the actor's processes before this one, the oldest first.
        pid: Of the process on its node.
        started_ticks: When the process started, as Linux counts it: pids are used again.
        beats: How often it has said that it lives; 0 for one that does not say so.
    """

    replica: str
    node: str
    clips: tuple[str, ...] = ()
    alone: bool = False
    suspects: tuple[str, ...] = ()
    deaths_alone: dict[str, list[str]] = field(default_factory=dict)
    deaths: int = 0
    last_words: str | None = None
    ended: str | None = None
    earlier: tuple[str, ...] = ()
    pid: int = 0
    started_ticks: int = 0
    beats: int = 0

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), sort_keys=True).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Attempt:
        said = json.loads(data)
        lists = {name: tuple(said[name]) for name in ("clips", "suspects", "earlier")}
        return cls(**(said | lists))


def next_attempt(
    dead: Attempt,
    replica: str,
    identity: ActorIdentity,
    is_settled: Callable[[str], bool],
    committed: bool,
) -> Attempt:
    """The first record of the process that Ray starts in the place of another.

    Args:
        dead: The last record of the earlier process.
        replica: Name of the new process.
        identity: The actor that both are.
        is_settled: Whether this run has committed a clip with that id, or its dead letter.
        committed: Whether the earlier process committed any clip.
    """
    suspects = tuple(clip for clip in dead.suspects if not is_settled(clip))
    successor = replace(
        dead,
        replica=replica,
        node=identity.node,
        clips=(),
        alone=False,
        suspects=suspects,
        earlier=(*dead.earlier, dead.replica),
        pid=0,
        started_ticks=0,
        beats=0,
    )
    if dead.ended or identity.seconds_left(dead.node) is not None:
        return replace(successor, ended=None, last_words=None)
    known, in_work = dict(dead.deaths_alone), [c for c in dead.clips if not is_settled(c)]
    if in_work:
        successor = replace(successor, suspects=tuple(in_work))
    if in_work and dead.alone:
        reason = dead.last_words or UNKNOWN_REASON
        known[in_work[0]] = [*known.get(in_work[0], []), reason]
    return replace(successor, deaths_alone=known, deaths=1 + (0 if committed else dead.deaths))


class AttemptLog:
    """Keeps the record of one process. What a method has returned from is in storage, and stays
    there if the process dies.

    Attributes:
        commits: What the processes of this actor have committed in this run.
    """

    def __init__(self, storage: Storage, path: str, now: Attempt, commits: ActorCommits) -> None:
        self._storage, self._path, self._now = storage, path, now
        self.commits = commits
        self._lock = threading.Lock()
        self._closed = False

    @classmethod
    def begin(
        cls,
        storage: Storage,
        run_id: str,
        replica: str,
        identity: ActorIdentity,
        max_deaths: int,
    ) -> AttemptLog:
        """Begins the record of a process, from that of the actor's earlier process if it had one.

        Args:
            storage: Root of the output.
            run_id: The run.
            replica: Name of the process.
            identity: Which actor it is.
            max_deaths: See below.

        Raises:
            RepeatedDeathsError: `max_deaths` processes of this actor in a row died without
                committing a clip.
        """
        path = path_of(run_id, identity.name)
        dead = read_attempt(storage, path)
        earlier = () if dead is None else (*dead.earlier, dead.replica)
        commits = ActorCommits(storage, run_id, earlier)
        now = Attempt(replica, identity.node)
        if dead is not None:
            now = next_attempt(
                dead,
                replica,
                identity,
                lambda c: c in commits.letters or commits.contains(c),
                dead.replica in commits.made_clips,
            )
        pid = os.getpid()
        now = replace(now, pid=pid, started_ticks=started_ticks(pid) or 0)
        log = cls(storage, path, now, commits)
        log._write()
        if dead is not None and now.deaths >= max_deaths:
            reason = dead.last_words or UNKNOWN_REASON
            raise RepeatedDeathsError(
                f"the process of this replica died {now.deaths} times in a row without making a "
                f"clip (the last time: {reason}): that is the machine or the settings rather than "
                "the rows; see the actors' logs, lower --slots, or raise --max-deaths; the same "
                "command goes on from what is committed"
            )
        return log

    @property
    def now(self) -> Attempt:
        """The record as it stands."""
        return self._now

    def record_in_hand(self, clips: Sequence[str], *, alone: bool, suspects: Sequence[str]) -> None:
        """Records the clips in work, all of them, before work on a new one begins."""
        self._write(clips=tuple(clips), alone=alone, suspects=tuple(suspects), last_words=None)

    def blame(self, clips: Sequence[str], words: str) -> None:
        """Records why the process is about to end itself, and on which clips it was working. The
        death counts against a row only where that row ran alone."""
        alone = self._now.alone and tuple(clips) == self._now.clips
        self._write(clips=tuple(clips) or self._now.clips, alone=alone, last_words=words)

    def beat(self) -> None:
        """Says that the process lives."""
        self._write(beats=self._now.beats + 1)

    def end(self, why: str) -> None:
        """Records that the process ends in order, so that no clip is suspected."""
        self._write(ended=why)

    def close(self) -> None:
        """From now on nothing is written: the run is over, and its records are removed."""
        with self._lock:
            self._closed = True

    def refusal(self, clip_id: str) -> QuarantinedError | None:
        """Why a clip is in quarantine; None if it is not."""
        deaths = self._now.deaths_alone.get(clip_id, [])
        if len(deaths) < DEATHS_ALONE:
            return None
        return QuarantinedError(
            f"kept out after {len(deaths)} attempts: each time the replica's process died while "
            f"this row was the only one at work (the last time: {deaths[-1]}); see the actors' "
            "logs, change the row or give replicas more memory, then `musicgen-batch retry`"
        )

    def _write(self, **changes: object) -> None:
        with self._lock:
            self._now = replace(self._now, **changes)  # type: ignore[arg-type]
            if self._closed:
                return
            # No fsync: the record must survive the process, and after the loss of the machine it is
            # not needed, since that counts against no row.
            self._storage.put(self._path, self._now.to_json(), sync=False)


def path_of(run_id: str, identity: str) -> str:
    """The path of an actor's record."""
    return f"{FOLDER}/{run_id}/{identity}.json"


def read_attempts(storage: Storage, run_id: str) -> dict[str, Attempt]:
    """The records of a run, by path."""
    paths = [info.path for info in storage.list(f"{FOLDER}/{run_id}")]
    with ThreadPoolExecutor(THREADS) as pool:
        found = dict(
            zip(paths, pool.map(lambda path: read_attempt(storage, path), paths), strict=True)
        )
    return {path: attempt for path, attempt in found.items() if attempt is not None}


def blame_silent(storage: Storage, path: str, silent: Attempt, words: str) -> Attempt:
    """Records in the place of a process why the driver is about to end it."""
    blamed = replace(silent, last_words=words)
    storage.put(path, blamed.to_json(), sync=False)
    return blamed


def started_ticks(pid: int) -> int | None:
    """When a process of this machine started; None where there is none, or no Linux."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return int(stat.rpartition(")")[2].split()[19])


def forget_attempts(storage: Storage, run_id: str) -> None:
    """Removes the records of a run that has ended."""
    storage.delete(info.path for info in storage.list(f"{FOLDER}/{run_id}"))


def read_attempt(storage: Storage, path: str) -> Attempt | None:
    """The record at that path; None where no process has written one yet."""
    try:
        return Attempt.from_json(storage.get(path))
    except ObjectNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        raise StorageError(
            f"{storage.uri(path)} is not an attempt record ({error}); "
            "if no run is writing there, delete it"
        ) from error
