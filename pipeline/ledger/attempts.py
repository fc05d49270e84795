"""Attempt records: which clips a replica has in hand, written before any of them can end it.

One object per replica, `attempts/<run_id>/<seat>.json`. The seat outlives the process: the next
one in it reads what its predecessor had in hand when it died.

* A death in company makes those rows *suspects*. They run again with nothing else beside them, in
  eighths of their number, so eight or fewer run alone.
* A death alone counts against the row; after two the row is kept out (quarantine).
* The end of a run, a drain and the loss of a node end a replica without a death: records belong
  to one run, a drained replica says so, and a record of a node that is gone counts for nothing.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace

from pipeline.ledger.parts import list_parts
from pipeline.ledger.reader import PartCache, clips_of_run, dead_letters_of_run
from pipeline.storage import THREADS, ObjectNotFoundError, Storage, StorageError

FOLDER = "attempts"
QUARANTINE = "quarantine"  # stage of a dead letter
DEATHS_ALONE = 2  # after so many a row is kept out
NO_WORDS = "killed, or crashed in native code"
GROUPS = 8  # suspects run again in so many groups


class RepeatedDeathsError(RuntimeError):
    """The process of a replica dies again and again, and no clip comes out in between."""


class QuarantinedError(RuntimeError):
    """A row that ends the process that makes it."""


def _stays(node: str) -> float | None:
    return None


@dataclass(frozen=True)
class ActorIdentity:
    """The place of a replica, which outlives its process.

    Attributes:
        name: Ray's id of the actor: the same after a restart.
        node: Where the process runs.
        seconds_left: How long a node will be there, 0 if it is gone; None where it stays.
    """

    name: str
    node: str = ""
    seconds_left: Callable[[str], float | None] = _stays


@dataclass(frozen=True)
class Attempt:
    """What a record says.

    Attributes:
        clips: Ids of what is in hand: conditioned, in the engine, decoded, encoded.
        alone: Whether that is one clip with nothing beside it.
        suspects: Ids of what was in hand when a predecessor died, and was not yet tried again.
        deaths_alone: What is known of the deaths that count, by clip id.
        deaths: Processes in this seat that died, one after another, without committing a clip.
        last_words: What the process said before it ended itself.
        ended: Why it ended in order; None while it runs, and if it died.
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

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), sort_keys=True).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Attempt:
        said = json.loads(data)
        lists = {name: tuple(said[name]) for name in ("clips", "suspects")}
        return cls(**(said | lists))


def next_attempt(
    dead: Attempt,
    replica: str,
    identity: ActorIdentity,
    is_settled: Callable[[str], bool],
    committed: bool,
) -> Attempt:
    """The record of the next process in a seat, from that of the one before.

    Args:
        dead: The last record of the predecessor.
        replica: Name of the new process.
        seat: Its place.
        is_settled: Whether this run has committed a clip, or a dead letter in its place.
        committed: Whether the predecessor committed any clip.
    """
    suspects = tuple(clip for clip in dead.suspects if not is_settled(clip))
    born = replace(
        dead, replica=replica, node=identity.node, clips=(), alone=False, suspects=suspects
    )
    if dead.ended or identity.seconds_left(dead.node) is not None:
        return replace(born, ended=None, last_words=None)
    known, in_hand = dict(dead.deaths_alone), [c for c in dead.clips if not is_settled(c)]
    if in_hand:
        born = replace(born, suspects=tuple(in_hand))
    if in_hand and dead.alone:
        words = dead.last_words or NO_WORDS
        known[in_hand[0]] = [*known.get(in_hand[0], []), words]
    return replace(born, deaths_alone=known, deaths=1 + (0 if committed else dead.deaths))


class AttemptLog:
    """The record of one process, which outlives that process once a method has returned.

    Attributes:
        letters: Ids of clips in whose place this run committed a dead letter before the process
            began.
    """

    def __init__(self, storage: Storage, path: str, now: Attempt, letters: frozenset[str]) -> None:
        self._storage, self._path, self._now = storage, path, now
        self.letters = letters
        self._lock = threading.Lock()

    @classmethod
    def begin(
        cls, storage: Storage, run_id: str, replica: str, identity: ActorIdentity, max_deaths: int
    ) -> AttemptLog:
        """Takes over from the process that was in this seat before, if there was one.

        Raises:
            RepeatedDeathsError: `max_deaths` processes in a row died here without making a clip.
        """
        path = path_of(run_id, identity.name)
        dead, letters = read_attempt(storage, path), frozenset[str]()
        now = Attempt(replica, identity.node)
        if dead is not None:
            clips, letters = (
                clips_of_run(storage, run_id, PartCache()),
                dead_letters_of_run(storage, run_id),
            )
            parts = list_parts(storage, "clips", run_id)
            committed = any(f"-{dead.replica}-" in info.path for info in parts)
            now = next_attempt(
                dead, replica, identity, lambda c: c in letters or clips.contains(c), committed
            )
        log = cls(storage, path, now, letters)
        log._write()
        if dead is not None and now.deaths >= max_deaths:
            raise RepeatedDeathsError(
                f"the process of this replica died {now.deaths} times in a row without making a "
                f"clip (the last time: {dead.last_words or NO_WORDS}): that is the machine or the "
                "settings rather than the rows; see the actors' logs, lower --slots, or raise "
                "--max-deaths; the same command goes on from what is committed"
            )
        return log

    @property
    def now(self) -> Attempt:
        return self._now

    def record_in_hand(self, clips: Sequence[str], *, alone: bool, suspects: Sequence[str]) -> None:
        """Before any of `clips` goes on; those that left since the last call are not among them."""
        self._write(clips=tuple(clips), alone=alone, suspects=tuple(suspects), last_words=None)

    def blame(self, clips: Sequence[str], words: str) -> None:
        """Before the process ends itself: what it was doing. A death in company stays one."""
        alone = self._now.alone and tuple(clips) == self._now.clips
        self._write(clips=tuple(clips) or self._now.clips, alone=alone, last_words=words)

    def end(self, why: str) -> None:
        """The process leaves in order; nothing is counted."""
        self._write(ended=why)

    def refusal(self, clip_id: str) -> QuarantinedError | None:
        """Why a clip is kept out, if it is."""
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
            # It must outlive the process; the loss of the machine counts against no row.
            self._storage.put(self._path, self._now.to_json(), sync=False)


def path_of(run_id: str, identity: str) -> str:
    """Where the record of a seat stands."""
    return f"{FOLDER}/{run_id}/{identity}.json"


def read_attempts(storage: Storage, run_id: str) -> dict[str, Attempt]:
    """The records of a run, by path."""
    paths = [info.path for info in storage.list(f"{FOLDER}/{run_id}")]
    with ThreadPoolExecutor(THREADS) as pool:
        found = dict(
            zip(paths, pool.map(lambda path: read_attempt(storage, path), paths), strict=True)
        )
    return {path: attempt for path, attempt in found.items() if attempt is not None}


def forget_attempts(storage: Storage, run_id: str) -> None:
    """Removes the records of a run that has ended."""
    storage.delete(info.path for info in storage.list(f"{FOLDER}/{run_id}"))


def read_attempt(storage: Storage, path: str) -> Attempt | None:
    """The record of a seat; None where no process has been in it yet."""
    try:
        return Attempt.from_json(storage.get(path))
    except ObjectNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        raise StorageError(
            f"{storage.uri(path)} is not an attempt record ({error}); "
            "if no run is writing there, delete it"
        ) from error
