"""One writer per output: whoever created the highest `lease/<generation>.json` holds it.

A generation is created exclusively, so each has one owner. The owner rewrites its file at regular
intervals with a counter that grows (the heartbeat). Another run that sees the counter unchanged for
one TTL, on its own clock, creates the next generation. A former owner that was only slow finds the
higher generation and stops. So the clocks of different machines are never compared, and a
generation is never given out twice.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from pipeline.ledger.names import generation_of, lease_path
from pipeline.ledger.runs import generation_of_run, read_runs
from pipeline.storage import ObjectNotFoundError, Storage, StorageError, redact

logger = logging.getLogger(__name__)

FOLDER = "lease"
DEFAULT_TTL_S = 20.0
BEATS_PER_TTL = 4  # how often the owner rewrites its file
LOOKS_PER_TTL = 20  # how often a run that waits reads it


class LeaseHeldError(RuntimeError):
    """Another run is writing to this output."""


class LeaseLostError(RuntimeError):
    """This run may no longer write: another one has taken the output over."""


class OutputGoneError(StorageError):
    """Somebody has deleted the output while a run was writing to it."""


@dataclass(frozen=True)
class LeaseState:
    """The content of a lease file."""

    generation: int
    token: str
    counter: int
    held: bool
    ttl_s: float
    owner: str
    draining: bool = False
    """whether the replicas of this run are to finish the clips in their slots and end"""

    def to_json(self) -> bytes:
        return json.dumps(self.__dict__, sort_keys=True).encode()


class Lease:
    """The right to write to one output; a context manager that gives it back at the end."""

    def __init__(self, storage: Storage, state: LeaseState) -> None:
        self.storage = storage
        self._state = state
        self._state_lock = threading.Lock()
        self._lost: Exception | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._beaten_at_s = time.monotonic()

    @classmethod
    def acquire(
        cls,
        storage: Storage,
        *,
        ttl_s: float = DEFAULT_TTL_S,
        wait: bool = False,
        on_message: Callable[[str], None] | None = None,
        owner: str = "run",
    ) -> Lease:
        """Takes the lease: at once where it is free, after one TTL where its owner has died.

        Args:
            storage: root of the output.
            ttl_s: how long a counter must stand still before its owner counts as dead.
            wait: wait for a living owner to finish instead of raising LeaseHeldError.
            on_message: receives a sentence when it waits, and when it takes over.
            owner: the command that takes the lease, which other runs show.
        """
        say = on_message or logger.info
        while True:
            standing = _newest(storage)
            died = standing is not None and standing.held
            if standing and standing.held:
                died = _outwait(storage, standing, max(ttl_s, standing.ttl_s), wait, say)
            generation = 1 + (standing.generation if standing else _highest_recorded(storage))
            whose = f"{owner} on {socket.gethostname()}, process {os.getpid()}"
            mine = LeaseState(generation, secrets.token_hex(8), 0, True, ttl_s, whose)
            if not storage.create_once(lease_path(generation), mine.to_json(), mine.token):
                continue
            _refuse_careless_store(storage, mine)
            if current_generation(storage) != generation:
                continue  # a slow start: others came and went meanwhile
            if standing and died:
                say(f"took over from {standing.owner}, which stopped without giving the lease back")
            return cls(storage, mine)

    @property
    def generation(self) -> int:
        """The number of this lease among all that the output has had."""
        return self._state.generation

    @property
    def token(self) -> str:
        """A secret that only this run and its replicas know."""
        return self._state.token

    @property
    def ttl_s(self) -> float:
        """How long a counter must stand still before its owner counts as dead."""
        return self._state.ttl_s

    @property
    def lost(self) -> bool:
        """Whether this run is known to have lost the right to write."""
        return self._lost is not None

    def check(self) -> None:
        """Asks the store whether this run may still write, unless a heartbeat has just done so.

        Raises:
            LeaseLostError: Another run has taken over.
            OutputGoneError: The output was deleted.
        """
        in_doubt = time.monotonic() - self._beaten_at_s > self.ttl_s / BEATS_PER_TTL
        if not self.lost and in_doubt:
            self._look()
        if self._lost is not None:
            raise self._lost

    def start_heartbeat(self) -> None:
        """Renews the lease from a thread of its own until `release`."""
        self._thread = threading.Thread(target=self._beat_on, name="lease-heartbeat", daemon=True)
        self._thread.start()

    def ask_to_drain(self) -> None:
        """Tells the replicas of this run, which read the lease, to finish their slots and end."""
        self._look()
        if not self.lost:
            self._write(held=True, draining=True)

    def beat(self) -> None:
        """Renews the lease once: a heartbeat."""
        self._write(held=True)

    def release(self) -> None:
        """Gives the lease back, so that the next run starts at once."""
        self._stop.set()
        if self._thread:
            self._thread.join()
        if self.lost:
            return
        try:
            self._write(held=False)
        except StorageError as error:
            logger.warning("the lease stays behind; the next run waits one TTL for it: %s", error)

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def _beat_on(self) -> None:
        while not self._stop.wait(self.ttl_s / BEATS_PER_TTL):
            try:
                self._look()
                if self.lost:
                    return
                self.beat()
            except StorageError as error:
                logger.warning("the lease could not be renewed: %s", error)

    def _look(self) -> None:
        """Asks the store which generation is the highest."""
        asked_at_s = time.monotonic()
        newest = current_generation(self.storage)
        if newest > self.generation:
            self._lost = LeaseLostError(
                f"another run took over {redact(self.storage.root)} (this one held generation "
                f"{self.generation}); nothing that was committed is lost"
            )
        elif newest < self.generation:
            self._lost = output_gone(self.storage)
        self._beaten_at_s = asked_at_s

    def _write(self, *, held: bool, draining: bool = False) -> None:
        with self._state_lock:
            changes: dict[str, Any] = {"counter": self._state.counter + 1, "held": held}
            changes["draining"] = draining or self._state.draining
            self._state = LeaseState(**(self._state.__dict__ | changes))
            self.storage.put(lease_path(self.generation), self._state.to_json())


def output_gone(storage: Storage) -> OutputGoneError:
    """The error of a run whose own files are no longer there."""
    return OutputGoneError(
        f"{redact(storage.root)} was deleted, or moved away, while this run was writing to it: the "
        "run's own files are gone, and what it had committed there with them; run the same command "
        "again to make it anew"
    )


def current_generation(storage: Storage) -> int:
    """The highest generation whose file exists; 0 for none."""
    return max((generation_of(info.path) for info in storage.list(FOLDER)), default=0)


def holds(storage: Storage, generation: int, token: str) -> bool:
    """Whether this generation may still write. Replicas ask before each commit."""
    if current_generation(storage) != generation:
        return False
    state = read_lease(storage, generation)
    return state is not None and state.held and state.token == token


def check_held(storage: Storage, generation: int, token: str) -> None:
    """Asks the store whether this generation may still write. Replicas ask before each commit.

    Raises:
        LeaseLostError: Another run has taken over, or this one has ended.
        OutputGoneError: The output was deleted.
    """
    where, newest = redact(storage.root), current_generation(storage)
    if newest > generation:
        raise LeaseLostError(f"{where} was taken over by another run; this replica commits no more")
    state = read_lease(storage, generation)
    if state is None:
        raise output_gone(storage)
    if not state.held or state.token != token:
        raise LeaseLostError(
            f"the run that this replica belongs to has ended and given the lease of {where} back; "
            "this replica commits no more"
        )


def _newest(storage: Storage) -> LeaseState | None:
    """The lease file of the highest generation."""
    while generation := current_generation(storage):
        if state := read_lease(storage, generation):
            return state
    return None


def _highest_recorded(storage: Storage) -> int:
    """The highest generation that the record of a run names: rows are ordered by generations, which
    must grow although somebody has removed the lease files."""
    return max((generation_of_run(record) for record in read_runs(storage)), default=0)


def read_lease(storage: Storage, generation: int) -> LeaseState | None:
    """The lease file of a generation; None where it is gone. Replicas ask at intervals whether
    their run drains or has ended: one small read."""
    path = lease_path(generation)
    try:
        data = storage.get(path)
    except ObjectNotFoundError:
        return None
    try:
        return LeaseState(**json.loads(data))
    except (ValueError, TypeError) as error:
        raise StorageError(
            f"{storage.uri(path)} is not a lease file ({error}); "
            "if no run is writing there, delete it"
        ) from error


def _outwait(
    storage: Storage, seen: LeaseState, ttl_s: float, wait: bool, say: Callable[[str], None]
) -> bool:
    """Watches the owner until it has died (True) or given the lease back (False).

    Raises:
        LeaseHeldError: It is alive, and `wait` is false.
    """
    say(f"{seen.owner} holds the lease; watching for {ttl_s:g} s whether it is alive")
    announced = False
    still_since_s = time.monotonic()
    while time.monotonic() - still_since_s < ttl_s:
        time.sleep(ttl_s / LOOKS_PER_TTL)
        now = _newest(storage)
        if now is None or not now.held:
            return False
        if now == seen:
            continue
        if not wait:
            raise LeaseHeldError(
                f"{now.owner} is writing to {redact(storage.root)}; let it finish, or "
                "follow it with --wait"
            )
        if not announced:
            say(f"{now.owner} is alive; waiting until it has finished")
            announced = True
        seen, still_since_s = now, time.monotonic()
    return True


def _refuse_careless_store(storage: Storage, mine: LeaseState) -> None:
    """Checks that the store refuses to create an object that exists; the lease relies on it."""
    other = secrets.token_hex(8)
    probe = LeaseState(**(mine.__dict__ | {"token": other}))
    if storage.create_once(lease_path(mine.generation), probe.to_json(), other):
        raise StorageError(
            f"{storage!r} ignores the condition of an exclusive create (If-None-Match), so two "
            "runs could write at once; use a store that honours it (AWS S3, Google Cloud Storage, "
            "Ceph) or a local folder"
        )
