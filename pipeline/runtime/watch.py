"""The driver's part of a running job: it counts what becomes durable until the job ends."""

import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from queue import Empty, Queue
from typing import Any, TextIO

import pyarrow as pa

from pipeline.config import ConfigError, JobConfig
from pipeline.ledger.lease import Lease, LeaseLostError, OutputGoneError
from pipeline.replica.messages import ClipStatus, read_statuses
from pipeline.run_record import RunRecord, RunSummary
from pipeline.runtime.drain import Drain, Leaving
from pipeline.runtime.runtime import Runtime, Work
from pipeline.runtime.silence import SilenceWatch, watch_for_silence
from pipeline.storage import StorageError
from pipeline.telemetry.progress import ProgressView

POLL_S = 0.1
LOOK_S = 5.0  # between questions for work that has no place

Statuses = Queue[pa.Table | BaseException | None]  # None: no more come


class ReplicaFailedError(RuntimeError):
    """A replica can't go on, and so neither can the job."""


class StalledError(RuntimeError):
    """No row became durable for `stall_timeout_s`."""


@dataclass(frozen=True)
class Watch:
    """What the driver needs to watch a job.

    Attributes:
        config: The job.
        lease: Must stay this run's.
        record: Rewritten every `interval_s`.
        summary: Counts what is durable.
        drain: Knows whether the run is to end early.
        say: Told in a sentence when it does.
        progress: Where progress is shown, if anywhere.
    """

    config: JobConfig
    lease: Lease
    record: RunRecord
    summary: RunSummary
    drain: Drain
    say: Callable[[str], None]
    progress: TextIO | None = None

    def run(self, runtime: Runtime, work: Work) -> None:
        """Runs the work from a thread of its own until it ends, stalls, is drained, or the lease
        goes.

        Raises:
            LeaseLostError, StorageError, ConfigError, ReplicaFailedError, StalledError,
            NoPlaceError: The job can't go on.
        """
        statuses: Statuses = Queue()
        stop = threading.Event()
        threading.Thread(
            target=_drive, args=(runtime, work, statuses, stop), name="drive", daemon=True
        ).start()
        is_leaving = threading.Event()  # draining replicas need not say that they live
        watch_for_silence(
            SilenceWatch(
                self.lease.storage,
                self.summary.run_id,
                self.config.run.hang_timeout_s,
                runtime,
                self.say,
            ),
            is_leaving,
        )
        view = None
        if self.progress is not None:
            view = ProgressView(self.summary.tally, self.config.run.interval_s, self.progress)
        try:
            self._until_the_end(runtime, statuses, view, is_leaving)
        finally:
            is_leaving.set()
            stop.set()
            runtime.close()
            if view is not None:
                view.close()

    def _until_the_end(
        self,
        runtime: Runtime,
        statuses: Statuses,
        view: ProgressView | None,
        is_leaving: threading.Event,
    ) -> None:
        config, drain, tally = self.config, self.drain, self.summary.tally
        last_news = next_record = time.monotonic()
        next_look = next_record + LOOK_S
        leaving: Leaving | None = None
        while True:
            self.lease.check()
            runtime.check()
            now = time.monotonic()
            if view is not None:
                view.update()
            if leaving is None and drain.is_due():
                is_leaving.set()
                self.say(drain.announcement())
                self.lease.ask_to_drain()
                leaving = Leaving(self.lease.storage, self.summary.run_id, now + config.run.drain_s)
            if leaving is not None and leaving.is_over(now):
                return
            if now >= next_record:
                self.record.write("running", tally)
                next_record = now + config.run.interval_s
            if now >= next_look and leaving is None:
                if said := runtime.waits_for(tally.clips + tally.failed):
                    self.say(said)
                next_look = now + LOOK_S
            if now - last_news > config.run.stall_timeout_s:
                raise StalledError(
                    f"no row became durable for {config.run.stall_timeout_s:g} s; see the actors' "
                    "logs, or raise stall_timeout_s; the same command resumes"
                )
            try:
                news = statuses.get(timeout=POLL_S)
            except Empty:
                continue
            if news is None:
                return
            if isinstance(news, BaseException):
                runtime.check()  # the cause, where Ray itself is gone
                raise news
            last_news = now
            self._count(news)

    def _count(self, batch: pa.Table) -> None:
        tally = self.summary.tally
        for status, replica, times in read_statuses(batch):
            if status.status == "fatal":
                raise _fatal(status)
            if times is not None:
                tally.times.update(replica, times)
            tally.failed += status.status == "letter"
            tally.clips += status.status in ("clip", "known")
            tally.aside += status.status == "aside"
            tally.audio_s += status.audio_s or 0.0
            tally.is_replayed |= status.status == "known"
            self.summary.replicas.add(replica)


def _drive(runtime: Runtime, work: Work, statuses: Queue[Any], stop: threading.Event) -> None:
    try:
        # Closed here and not by the garbage collector, which would print what that raises: a run
        # that fails may have left Ray before.
        with closing(runtime.statuses(work)) as batches:
            for batch in batches:
                statuses.put(batch)
                if stop.is_set():
                    return
        statuses.put(None)
    except BaseException as error:  # handed to the watching thread, which raises it
        statuses.put(error)


def _fatal(status: ClipStatus) -> Exception:
    """What a replica reported, as an error of the driver."""
    known: dict[str, type[Exception]] = {
        "LeaseLostError": LeaseLostError,
        "OutputGoneError": OutputGoneError,
        "StorageError": StorageError,
        "CheckpointError": ConfigError,
        "ModelNotFoundError": ConfigError,
        "ScorerError": ConfigError,
    }
    kind = known.get(status.error_class or "", ReplicaFailedError)
    return kind(status.error or status.error_class)
