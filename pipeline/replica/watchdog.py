"""Ends a process whose work hangs: nothing else gets it out of a native call that never returns."""

import faulthandler
import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

log = logging.getLogger(__name__)

LOOKS_PER_TIMEOUT = 20
STDERR = 2
FAREWELL_S = 10.0  # how long the record of what hung may take
DEAF_FACTOR, DEAF_S = 2.0, 60.0  # after max(twice the timeout, a minute) without this very thread


@dataclass(frozen=True)
class _Work:
    clips: Collection[str]
    since: float  # monotonic seconds


class Watchdog:
    """Watches pieces of work, each of which must end in time.

    A thread looks after them. Where native code hangs with Python's lock in its hands no thread of
    Python runs; then `faulthandler`, whose timer is not Python's, ends the process.

    Args:
        timeout_s: How long a piece of work may take.
        on_hang: Told what hangs before the process ends: clip ids and a sentence.
    """

    def __init__(self, timeout_s: float, on_hang: Callable[[list[str], str], None]) -> None:
        self._timeout_s, self._on_hang = timeout_s, on_hang
        self._work: dict[str, _Work] = {}
        self._stopped = threading.Event()
        threading.Thread(target=self._look, name="watchdog", daemon=True).start()

    @contextmanager
    def watching(self, what: str, clips: Collection[str]) -> Iterator[None]:
        """A piece of work called `what`, one of that name at a time, on `clips`."""
        self._work[what] = _Work(clips, time.monotonic())
        try:
            yield
        finally:
            del self._work[what]

    def stop(self) -> None:
        """Looks no more."""
        self._stopped.set()

    def _look(self) -> None:
        while not self._stopped.is_set():
            deaf_s = max(DEAF_FACTOR * self._timeout_s, DEAF_S)
            faulthandler.dump_traceback_later(deaf_s, exit=True, file=STDERR)
            self._stopped.wait(self._timeout_s / LOOKS_PER_TIMEOUT)
            for what, work in list(self._work.items()):
                if time.monotonic() - work.since > self._timeout_s:
                    self._end(what, [*work.clips])
        faulthandler.cancel_dump_traceback_later()

    def _end(self, what: str, clips: list[str]) -> None:
        words = f"{what} did not return within {self._timeout_s:g} s (--hang-timeout-s)"
        log.error("%s; this process ends itself; it worked on %s", words, " ".join(clips))
        faulthandler.dump_traceback(file=STDERR, all_threads=True)
        farewell = threading.Thread(target=self._on_hang, args=(clips, words), daemon=True)
        farewell.start()
        farewell.join(FAREWELL_S)
        os._exit(1)
