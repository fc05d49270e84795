"""Draining: a run ends early on a signal, or when its time or its GPU hours are used up."""

import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from pipeline.config import JobConfig
from pipeline.ledger.attempts import read_attempts
from pipeline.storage import Storage
from pipeline.telemetry.words import clock

log = logging.getLogger(__name__)

POLL_S = 0.5  # between two readings of the attempt records of draining replicas
COMMIT_S = 60.0  # that replicas have to commit, after the time for the clips in their slots
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Drain:
    """Decides when a run drains.

    Attributes:
        reason: Why it drains; None as long as it does not.
    """

    def __init__(self, config: JobConfig) -> None:
        self._config = config
        self._began = time.monotonic()
        self._replicas_began: float | None = None
        self._gpus = 0.0
        self.reason: str | None = None

    @property
    def is_by_signal(self) -> bool:
        """Whether it drains because the process is to end soon."""
        return self.reason in {signal.Signals(number).name for number in SIGNALS}

    def replicas_start(self, gpus: float) -> None:
        """Starts to count GPU hours: the replicas hold that many GPUs from now on."""
        self._replicas_began, self._gpus = time.monotonic(), gpus

    def is_due(self, now: float | None = None) -> bool:
        """Whether the run is to drain.

        Args:
            now: Monotonic seconds; by default the present.
        """
        now = time.monotonic() if now is None else now
        max_s, max_hours = self._config.run.max_runtime_s, self._config.run.max_gpu_hours
        if self.reason is None and max_s is not None and now - self._began >= max_s:
            self.reason = f"--max-runtime {self._config.run.max_runtime}"
        hours = self.gpu_hours(now)
        if self.reason is None and max_hours is not None and hours >= max_hours:
            self.reason = f"--max-gpu-hours {max_hours:g}"
        return self.reason is not None

    def gpu_hours(self, now: float) -> float:
        """GPU hours used until then."""
        held_s = 0.0 if self._replicas_began is None else now - self._replicas_began
        return self._gpus * held_s / 3600

    @contextmanager
    def listening(self) -> Iterator["Drain"]:
        """Within this context SIGTERM or SIGINT drains, and a second one ends the run at once
        (KeyboardInterrupt)."""
        before = {number: signal.getsignal(number) for number in SIGNALS}
        self.listen()
        try:
            yield self
        finally:
            if _may_listen():
                for number, handler in before.items():
                    signal.signal(number, handler)

    def listen(self) -> None:
        """Installs the signal handlers; called again after a library has installed its own."""
        if _may_listen():
            for number in SIGNALS:
                signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.reason is not None:
            raise KeyboardInterrupt
        self.reason = signal.Signals(number).name

    def announcement(self) -> str:
        """What the user reads when draining begins."""
        ran = clock(time.monotonic() - self._began)
        return (
            f"draining ({self.reason}, after {ran}): no clip begins, those in the slots have "
            f"{self._config.run.drain_s:g} s to finish (--drain-s), what is finished is committed; "
            "a signal now ends the run at once"
        )


@dataclass
class Leaving:
    """Waits for the replicas of a draining run to commit what they have finished."""

    storage: Storage
    run_id: str
    slots_empty_at: float  # monotonic seconds
    next_poll: float = 0.0

    def is_over(self, now: float) -> bool:
        """Whether every replica has ended, or the time for it is over."""
        if now < self.next_poll:
            return False
        self.next_poll = now + POLL_S
        records = read_attempts(self.storage, self.run_id).values()
        left = [record.replica for record in records if not record.ended]
        if left and now > self.slots_empty_at + COMMIT_S:
            log.warning("replicas %s did not drain in time; what they hold is made again", left)
            return True
        return not left


def _may_listen() -> bool:
    return threading.current_thread() is threading.main_thread()
