"""The decode loop of a replica: clips enter the engine and leave it finished, failed or late."""

import queue
import threading
import time
from typing import Protocol

from musicgen.engine.device_errors import is_out_of_memory, without_frames
from musicgen.engine.engine import ROWS_PER_SLOT, Engine, Request
from musicgen.model import MusicGen
from pipeline.config import JobConfig
from pipeline.replica.slots import make_engine, smaller_engine, too_big_alone
from pipeline.replica.task import ClipTask, DeadlineError
from pipeline.replica.watchdog import Watchdog
from pipeline.telemetry.timing import ReplicaTimes

LOOK_S = 0.25  # how often clips in the engine are compared with their deadlines
NAP_S = 0.05
COMMIT_NAP_S = 0.01  # an empty engine waits for a commit


class DecodeObserver(Protocol):
    """Is told by the loop what becomes of clips, and decides which may enter the engine."""

    drained_at: float | None
    """When the slots must be empty, monotonic seconds; nothing is admitted before that either."""

    def may_admit(self, n_inside: int) -> bool:
        """Whether a clip may enter beside `n_inside` others."""

    def on_admitted(self, task: ClipTask, engine: Engine) -> None:
        """A clip is about to enter its rows."""

    def on_decoded(self, task: ClipTask) -> None:
        """A clip has left the engine, with its codes or with an error."""

    def leave(self, task: ClipTask, stage: str, error: Exception) -> None:
        """A clip can't be made."""

    def hand_back(self, task: ClipTask) -> None:
        """A clip that a drain leaves undone."""


class DecodeLoop:
    """An engine and the clips in it; all but `ready` belongs to the thread that runs it.

    Args:
        model: Makes the engines.
        config: The job.
        times: Counts the engine's time.
        watchdog: Ends the process when a step hangs.
        observer: Told what becomes of clips.

    Attributes:
        engine: The present one.
        jobs: Clips in it, by id.
        ready: Rows with what the engine needs for them.
    """

    def __init__(
        self,
        model: MusicGen,
        config: JobConfig,
        times: ReplicaTimes,
        watchdog: Watchdog,
        observer: DecodeObserver,
    ) -> None:
        self._model, self._config, self._observer = model, config, observer
        self._times, self._watchdog = times, watchdog
        self.engine = make_engine(model, config.engine.slots)
        self.engine.on_admit = self._on_admit
        self.tasks: dict[str, ClipTask] = {}
        self.ready: queue.Queue[tuple[ClipTask, Request]] = queue.Queue(maxsize=self.engine.n_rows)
        self._earlier_steps = 0  # of engines that ran out of memory
        self._next_look = 0.0  # at the deadlines, monotonic seconds

    @property
    def n_slots(self) -> int:
        """Places in the engine."""
        return self.engine.n_rows // ROWS_PER_SLOT

    @property
    def n_steps(self) -> int:
        """Steps so far, of earlier engines too."""
        return self._earlier_steps + self.engine.n_steps

    def run(self, closed: threading.Event) -> None:
        """Steps while there are clips, until `closed`."""
        while not closed.is_set():
            self._admit(block=not self.tasks)
            self._cancel_late()
            if not self.tasks:
                continue
            try:
                watching = self._watchdog.watching("a step of the engine", self.tasks)
                with watching, self._times.model():
                    finished = self.engine.step()
                failed = None
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                failed = error
            if failed is not None:
                # Behind the except clause and without frames, which would keep the caches alive.
                self._shrink(without_frames(failed))
                continue
            for clip in finished:
                task = self.tasks.pop(clip.key)
                task.codes, task.request = clip.codes, None
                task.engine_rows, task.error = self.engine.n_rows, clip.error
                self._observer.on_decoded(task)

    def _admit(self, block: bool) -> None:
        """Hands waiting requests to the engine while it has room and the observer agrees."""
        if self._observer.drained_at is not None:
            time.sleep(NAP_S if block else 0)
            return
        while self.engine.has_room and not self._must_wait(block):
            try:
                task, request = self.ready.get(timeout=NAP_S if block else None, block=block)
            except queue.Empty:
                return
            block = False
            task.request = request
            self._enter(task)

    def _must_wait(self, block: bool) -> bool:
        """Whether nothing may enter now; with `block` after a nap, since there is nothing to do
        until a commit makes room."""
        if self._observer.may_admit(len(self.tasks)):
            return False
        if block:
            time.sleep(COMMIT_NAP_S)
        return True

    def _enter(self, task: ClipTask) -> None:
        """Submits a clip to the engine."""
        assert task.request is not None
        self.tasks[task.request.key] = task
        try:
            self.engine.submit(task.request)
        except ValueError as error:
            del self.tasks[task.request.key]
            self._observer.leave(task, "generate", error)

    def _on_admit(self, clip_id: str) -> None:
        self._observer.on_admitted(self.tasks[clip_id], self.engine)

    def _cancel_late(self) -> None:
        """Takes clips out of the engine whose time is over: their own, or that of a drain."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + LOOK_S
        drained_at = self._observer.drained_at
        drained = drained_at is not None and now >= drained_at
        for clip_id, task in list(self.tasks.items()):
            limit_s = self._config.run.row_limit_s(task.duration_s)
            took_s = 0.0 if task.admitted_at is None else now - task.admitted_at
            if not drained and took_s <= limit_s:
                continue
            self.engine.cancel(clip_id)
            del self.tasks[clip_id]
            if drained:
                self._observer.hand_back(task)
            else:
                self._observer.leave(task, "deadline", DeadlineError(took_s, limit_s))

    def _shrink(self, error: BaseException) -> None:
        """Goes on with half the slots and starts the clips in them anew; a clip that does not even
        fit alone fails."""
        tasks, self.tasks = list(self.tasks.values()), {}
        n_rows = self.engine.n_rows
        if n_rows == ROWS_PER_SLOT:
            self.engine.reset()
            for task in tasks:
                self._observer.leave(task, "generate", too_big_alone(error))
            return
        self.engine.close()  # its memory is needed for the smaller one
        self._earlier_steps += self.engine.n_steps
        self.engine = smaller_engine(self._model, n_rows, error)
        self.engine.on_admit = self._on_admit
        for task in tasks:
            self._enter(task)
