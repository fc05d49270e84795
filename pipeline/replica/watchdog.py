"""Ends a process whose work hangs, since a native call that never returns can't be interrupted."""

import faulthandler
import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

log = logging.getLogger(__name__)

CHECKS_PER_TIMEOUT = 20
STDERR = 2
RECORD_S = 10.0  # how long `on_hang` may take
# The watchdog's own thread needs Python's interpreter lock. If native code holds the lock for this
# many times the timeout, but at least that many seconds, faulthandler ends the process instead.
LOCKED_TIMEOUTS, LOCKED_S = 2.0, 60.0


@dataclass(frozen=True)
class _Work:
    clips: Collection[str]
    since: float  # monotonic seconds


class Watchdog:
    """Watches pieces of work, each of which must end in time.

    A thread compares them with the time. Where native code hangs while it holds the interpreter
    lock, no Python thread runs; then `faulthandler`, which has a native timer, ends the process.

    Args:
        timeout_s: How long a piece of work may take.
        on_hang: Called before the process ends, with the clip ids of what hangs and a sentence.
    """

    def __init__(self, timeout_s: float, on_hang: Callable[[list[str], str], None]) -> None:
        self._timeout_s, self._on_hang = timeout_s, on_hang
        self._work: dict[str, _Work] = {}
        self._stopped = threading.Event()
        threading.Thread(target=self._check, name="watchdog", daemon=True).start()

    @contextmanager
    def watching(self, what: str, clips: Collection[str]) -> Iterator[None]:
        """Around a piece of work on `clips`; only one with the name `what` runs at a time."""
        self._work[what] = _Work(clips, time.monotonic())
        try:
            yield
        finally:
            del self._work[what]

    def stop(self) -> None:
        """Watches no longer."""
        self._stopped.set()

    def _check(self) -> None:
        while not self._stopped.is_set():
            locked_s = max(LOCKED_TIMEOUTS * self._timeout_s, LOCKED_S)
            faulthandler.dump_traceback_later(locked_s, exit=True, file=STDERR)
            self._stopped.wait(self._timeout_s / CHECKS_PER_TIMEOUT)
            for what, work in list(self._work.items()):
                if time.monotonic() - work.since > self._timeout_s:
                    self._end(what, [*work.clips])
        faulthandler.cancel_dump_traceback_later()

    def _end(self, what: str, clips: list[str]) -> None:
        reason = f"{what} did not return within {self._timeout_s:g} s (--hang-timeout-s)"
        log.error("%s; this process ends itself; it worked on %s", reason, " ".join(clips))
        faulthandler.dump_traceback(file=STDERR, all_threads=True)
        recording = threading.Thread(target=self._on_hang, args=(clips, reason), daemon=True)
        recording.start()
        recording.join(RECORD_S)
        os._exit(1)
