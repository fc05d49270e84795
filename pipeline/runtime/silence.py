"""Sees replicas whose process stands still: stopped by a signal, or stuck in a driver's call.

Such a process ends neither by itself nor by an error, and Ray takes it for busy. But it no longer
writes its attempt record, which a living one does several times within `--hang-timeout-s`. Its
process is ended then, and Ray starts the actor again: what it had in hand runs apart, as after any
death.
"""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from pipeline.ledger.attempts import Attempt, blame_silent, read_attempts
from pipeline.storage import Storage, StorageError

log = logging.getLogger(__name__)

# Shares of --hang-timeout-s: a stop is noticed within the whole of it.
SILENT, LOOK = 0.8, 0.1
# A shorter silence proves nothing: a busy machine may need so long to load a model.
LEAST_SILENCE_S = 15.0


class EndsProcesses(Protocol):
    """What ends the process of a replica, wherever it runs."""

    def end_process(self, attempt: Attempt) -> bool:
        """Ends the process that wrote this record. False where it is gone, or can't be ended."""
        ...


@dataclass
class _Heard:
    """The last record of an actor that differed from the one before."""

    attempt: Attempt
    since: float  # monotonic seconds
    is_ended: bool = False  # its successor has not yet written a record


@dataclass
class SilenceWatch:
    """Compares the attempt records of a run with those that it saw before.

    Only its own clock counts: what a record says is compared with what it said, and a look at which
    the store did not answer starts the count anew.

    Attributes:
        storage: Root of the output.
        run_id: The run.
        hang_timeout_s: The setting.
        runtime: Ends processes.
        say: Told in a sentence when one is ended.
    """

    storage: Storage
    run_id: str
    hang_timeout_s: float
    runtime: EndsProcesses
    say: Callable[[str], None]
    _heard: dict[str, _Heard] = field(default_factory=dict)

    @property
    def silence_s(self) -> float:
        """How long a record may stay as it is."""
        return max(SILENT * self.hang_timeout_s, LEAST_SILENCE_S)

    def look(self, now: float) -> None:
        """Reads all records, and ends the processes of those that have been silent.

        Args:
            now: Monotonic seconds.
        """
        try:
            records = read_attempts(self.storage, self.run_id)
        except StorageError as error:
            log.warning("could not see whether replicas are alive: %s", error)
            self._heard.clear()
            return
        for path, attempt in records.items():
            heard = self._heard.get(path)
            if heard is None or heard.attempt != attempt:
                self._heard[path] = _Heard(attempt, now)
            elif self._is_silent(heard, now):
                heard.is_ended = self._end(path, heard, now - heard.since)
                heard.since = now  # it is tried again where it could not be ended

    def _is_silent(self, heard: _Heard, now: float) -> bool:
        talks = heard.attempt.beats > 0 and not heard.attempt.ended
        return talks and not heard.is_ended and now - heard.since > self.silence_s

    def _end(self, path: str, heard: _Heard, silent_s: float) -> bool:
        words = (
            f"the process said nothing for {silent_s:.0f} s, so the driver ended it "
            f"(--hang-timeout-s {self.hang_timeout_s:g})"
        )
        with suppress(StorageError):
            heard.attempt = blame_silent(self.storage, path, heard.attempt, words)
        silent = heard.attempt
        is_ended = self.runtime.end_process(silent)
        if is_ended:
            self.say(
                f"replica {silent.replica} (process {silent.pid}) stood still for {silent_s:.0f} s "
                "(--hang-timeout-s); its process was ended and starts anew, and what it had in "
                "hand runs apart"
            )
        return is_ended


def watch_for_silence(watch: SilenceWatch, stop: threading.Event) -> threading.Thread:
    """Looks again and again from a thread of its own until `stop`."""
    every_s = max(1.0, LOOK * watch.hang_timeout_s)

    def run() -> None:
        while not stop.wait(every_s):
            watch.look(time.monotonic())

    thread = threading.Thread(target=run, name="silence-watch", daemon=True)
    thread.start()
    return thread
