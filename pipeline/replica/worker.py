"""What a replica does with its rows: three threads, one step of the way each.

    accept ─► conditioner ─► decode loop ─► finisher ─► ray_task.done
              T5, codec      engine         decode, measure,
              encode                        encode, commit

So the decode loop never waits for a codec or an upload. Knows nothing of Ray.
"""

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict

import pyarrow as pa
import torch

from musicgen.engine.device_errors import is_broken_cuda, retried_with_memory
from musicgen.engine.engine import Engine
from musicgen.engine.request import Request
from pipeline.ledger.attempts import QUARANTINE, AttemptLog
from pipeline.ledger.lease import LeaseLostError, check_held
from pipeline.ledger.writer import PartLimits, PartOrigin, PartWriter
from pipeline.prepare.prepared import Prepared, PreparedClip
from pipeline.replica.admission import AdmissionQueue
from pipeline.replica.clip_rows import ClipRowBuilder
from pipeline.replica.decode_loop import DecodeLoop
from pipeline.replica.finisher import Finisher
from pipeline.replica.messages import ClipStatus, ReplicaSettings
from pipeline.replica.model import load_model, pick_device, pick_dtype
from pipeline.replica.task import ClipState, ClipTask, RayTask, TaskTable, request_of
from pipeline.replica.watchdog import Watchdog
from pipeline.storage import StorageError, open_storage
from pipeline.telemetry.logfmt import line
from pipeline.telemetry.metrics import Sample
from pipeline.telemetry.timing import ReplicaTimes

log = logging.getLogger(__name__)

FINISH_AT_ONCE_S = 600.0  # of audio, which bounds the memory that measuring takes


class ReplicaWorker:
    """A loaded model and the threads around it.

    Args:
        settings: The job, the model and the lease.
        attempts: The attempt record of this process.

    Attributes:
        tasks: Every clip in hand, by state.
        drained_at: When the slots must be empty, monotonic seconds; None while nothing drains.
    """

    def __init__(self, settings: ReplicaSettings, attempts: AttemptLog) -> None:
        config = settings.config
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
        torch.set_num_threads(config.engine.threads_per_replica)
        self.settings, self.config = settings, config
        self.attempts = attempts
        self.name = self.attempts.now.replica
        self.device = pick_device(config)
        self.dtype = pick_dtype(config, self.device)
        self.storage = open_storage(config.run.output, config.run.storage_options)
        self.model = load_model(settings, self.device, self.dtype)
        self.writer = PartWriter(
            self.storage,
            schema=settings.schema,
            origin=PartOrigin(settings.run_id, self.name, settings.lease_generation),
            audio=config.parts.audio,
            audio_format=config.audio.audio_format,
            limits=PartLimits(
                config.parts.part_clips,
                config.parts.part_megabytes * 1e6,
                config.parts.part_seconds,
            ),
            guard=self._guard,
        )
        self._commits = attempts.commits
        self.times = ReplicaTimes()
        self._watchdog = Watchdog(config.run.hang_timeout_s, self.attempts.blame)
        self.drained_at: float | None = None
        self.loop = DecodeLoop(self.model, config, self.times, self._watchdog, self)
        row_builder = ClipRowBuilder(
            config,
            settings.info,
            settings.run_id,
            self.name,
            self.device,
            self.dtype,
            self.model.bits_depend_on(self.loop.n_slots),
            settings.attempts,
        )
        self.finisher = Finisher(
            settings, self.model, row_builder, self.writer, self.times, self._take_again
        )
        self.tasks = TaskTable()
        self._admission = AdmissionQueue[ClipTask](self.attempts, self.loop.n_slots)
        self._decoded: queue.Queue[ClipTask | None] = queue.Queue()
        self._hands_back = True  # what a drain leaves undone
        self.closed = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(each,), name=each.__name__, daemon=True)
            for each in (self._condition, self._generate, self._finish)
        ]
        for thread in self._threads:
            thread.start()
        log.info("replica=%s run=%s ready on %s", self.name, settings.run_id, self.device)

    def accept(self, rows: Iterable[tuple[Prepared, pa.Table]]) -> RayTask:
        """Sends prepared rows on their way.

        Args:
            rows: Each row with its extra columns, as `prepared.from_table` reads them.

        Returns:
            The task whose `done` resolves when each row is durable, or raises what ended this
            replica.
        """
        ray_task = RayTask()
        ray_task.tasks = [_task_of(row, extras, ray_task) for row, extras in rows]
        if not ray_task.tasks:
            ray_task.done.set_result(None)
            return ray_task
        self._commits.look()  # Ray may replay a task after an actor or a node was lost
        self.tasks.begin(ray_task)
        clips = [task for task in ray_task.tasks if task.is_clip]
        known = self._commits.contains_many([task.spec.clip_id for task in clips])
        entering: list[ClipTask] = []
        for task in ray_task.tasks:
            if not task.is_clip:
                self._decoded.put(task)
        for task, is_known in zip(clips, known, strict=True):
            clip_id = task.spec.clip_id
            if is_known and task.clip.judged is None:
                self._settle(task, ClipStatus("known", clip_id))
            elif clip_id in self._commits.letters:
                self._settle(task, ClipStatus("letter", clip_id))
            elif self.tasks.add(task):
                if is_known:  # its siblings may still have to be judged
                    task.judged_again()
                entering.append(task)
        self.finisher.takes.begin(entering)
        for task in entering:
            self._let_in(task)
        return ray_task

    def samples(self) -> list[Sample]:
        """What the metrics say of this replica now; see `metrics.METRICS`."""
        work = asdict(self.times)
        return [
            *self.writer.committed.samples(),
            Sample("steps", self.loop.n_steps),
            *(
                Sample("work_seconds", work[f"{kind}_s"], (("kind", kind),))
                for kind in ("model", "conditioning", "decode", "encode", "commit")
            ),
            Sample("slots", self.loop.n_slots),
            Sample("slots_busy", len(self.loop.tasks)),
            Sample("clips_waiting", self.tasks.n_waiting),
            Sample("clips_uncommitted", self.tasks.n_uncommitted),
        ]

    def close(self) -> None:
        """Ends the threads and drops what is under way; a replica ends with its process instead."""
        self.closed.set()
        self._watchdog.stop()
        self._admission.close()
        self._decoded.put(None)
        for thread in self._threads:
            thread.join(timeout=10)
        self.finisher.close()
        self.attempts.close()
        self.storage.close()

    def _let_in(self, task: ClipTask) -> None:
        clip_id = task.spec.clip_id
        refusal = self.attempts.refusal(clip_id)
        if refusal is not None:
            self.leave(task, QUARANTINE, refusal)
        elif not self._admission.put(clip_id, task):
            self.hand_back(task)

    # --- the threads

    def _run(self, work: Callable[[], None]) -> None:
        """Whatever escapes a thread ends every Ray task with that error, and so the job."""
        try:
            work()
        except BaseException as error:
            known = isinstance(error, StorageError | LeaseLostError)  # the driver says them
            level = logging.INFO if known else logging.ERROR
            what = "replica=%s thread %s failed"
            log.log(level, what, self.name, work.__name__, exc_info=True)
            if is_broken_cuda(error):
                self.attempts.blame([], f"{type(error).__name__}: {error}")
                os._exit(1)  # Ray starts a new actor; a clean exit would leave a zombie slot
            for ray_task in self.tasks.fail(error):
                if not ray_task.done.done():
                    ray_task.done.set_exception(error)

    def _condition(self) -> None:
        while group := self._admission.next_group():
            for task in group:
                if self.drained_at is not None:
                    self.hand_back(task)
                    continue
                try:
                    request = self._request(task)
                except (ValueError, RuntimeError, MemoryError) as error:
                    if is_broken_cuda(error):
                        raise
                    self.leave(task, "conditioning", error)
                else:
                    self.loop.ready.put((task, request))

    def _request(self, task: ClipTask) -> Request:
        """What the engine needs for a clip; text and audio are encoded here."""

        def encode() -> Request:
            with self.model.beside_the_engine("conditions"):
                return request_of(task, self.model)

        watching = self._watchdog.watching("conditioning", [task.spec.clip_id])
        with watching, self.times.beside("conditioning_s"):
            return retried_with_memory(encode)

    def _generate(self) -> None:
        self.loop.run(self.closed)

    def _finish(self) -> None:
        """Decodes, measures, encodes and commits; the only thread that touches the writer."""
        finished: list[tuple[ClipTask, ClipStatus]] = []
        while True:
            batch = self._next_decoded(bool(finished))
            if batch is None:
                return
            clips = [task.spec.clip_id for task in batch if task.is_clip]
            with self._watchdog.watching("decoding and encoding", clips):
                statuses = self.finisher.statuses(batch)
            for task, status in statuses:
                if status.status == "held":
                    self.tasks.move(task, ClipState.HELD)
                    self._out(task)  # or suspects, which are let in one by one, would wait for ever
                elif status.status == "drained":
                    self.hand_back(task)
                else:
                    finished.append((task, status))
                    self.tasks.move(task, ClipState.FINISHED)
                    if not self._admission.isolating:
                        self._out(task)
            if finished and (self.writer.due_in_s() == 0.0 or self._waits_only_for_commit()):
                self._commit(finished)
                finished = []

    def _commit(self, finished: list[tuple[ClipTask, ClipStatus]]) -> None:
        """Publishes what the writer holds, and settles its rows."""
        with self.times.beside("commit_s"):
            self._commits.look()
            committed = self.writer.commit(self._commits)
            self._commits.add(committed)
        self.times.committed()
        ours = set(committed)
        for task, status in finished:
            self._out(task)
            is_new = status.status != "clip" or task.clip_id in ours
            self._settle(task, status if is_new else status.as_known())

    def _next_decoded(self, parts_wait: bool) -> list[ClipTask] | None:
        """What has left the engine, as many clips as are finished at once; None at the end.

        Args:
            parts_wait: Whether rows wait for a commit: then it returns when that may be due.
        """
        batch: list[ClipTask] = []
        room = max(
            1,
            min(self.config.audio.encode_threads, self.config.parts.part_clips - len(self.writer)),
        )
        audio_s = 0.0
        # For ever where nothing waits, else until a part is due or rows run out.
        patience = min(0.05, self.writer.due_in_s() or 0.0) if parts_wait else None
        try:
            while len(batch) < room and audio_s < FINISH_AT_ONCE_S:
                timeout = 0.0 if batch else patience
                task = self._decoded.get(block=timeout != 0.0, timeout=timeout)
                if task is None:
                    return None
                batch.append(task)
                audio_s += task.duration_s
        except queue.Empty:
            pass
        return batch

    def _waits_only_for_commit(self) -> bool:
        """Whether to commit before a part is full: nothing is queued for the engine, and a commit
        would complete a Ray task, so that Ray sends more rows. Suspects are committed at once."""
        if not self._decoded.empty():
            return False
        if self._admission.isolating:
            return True
        return self.tasks.n_waiting == 0 and self.tasks.a_ray_task_waits_for_commit()

    def _settle(self, task: ClipTask, status: ClipStatus) -> None:
        for ray_task in self.tasks.settle(task, status):
            drained = any(status.status == "drained" for status in ray_task.statuses)
            if (self._hands_back or not drained) and not ray_task.done.done():
                ray_task.done.set_result(None)

    def _out(self, task: ClipTask) -> None:
        """The clip can no longer end this process."""
        if task.is_clip:
            self._admission.out(task.spec.clip_id)

    # --- what the decode loop says and asks

    def may_admit(self, n_inside: int) -> bool:
        """What a kill can cost is bounded: clips in the slots and those not yet durable are at most
        one part more than the slots."""
        return (
            self.tasks.n_uncommitted + n_inside < self.config.parts.part_clips + self.loop.n_slots
        )

    def on_admitted(self, task: ClipTask, engine: Engine) -> None:
        """A clip is about to enter its rows of the engine."""
        if task.admitted_at is None:
            task.admitted_at = time.monotonic()
            self.tasks.move(task, ClipState.ADMITTED)
        self.times.admitted(engine.n_steps * engine.n_rows, engine.n_busy_rows)
        spec = task.spec
        ids = {"clip_id": spec.clip_id, "id": spec.id, "take": spec.take}
        log.info(line("admitted", run=self.settings.run_id, replica=self.name, **ids))

    def on_decoded(self, task: ClipTask) -> None:
        """A clip has left the engine, with its codes or with an error."""
        self.tasks.move(task, ClipState.DECODED)
        self._decoded.put(task)

    def leave(self, task: ClipTask, stage: str, error: Exception) -> None:
        """A clip fails outside the engine, or is taken out of it."""
        task.stage, task.error = stage, error
        self.on_decoded(task)

    def hand_back(self, task: ClipTask) -> None:
        """A drain leaves a clip undone, and with it the takes that can't be judged without it."""
        for each in (task, *self.finisher.takes.abandon(task)):
            self._out(each)
            self._settle(each, ClipStatus("drained", each.clip_id))

    def _take_again(self, task: ClipTask) -> None:
        """Sends a clip back to the queue with its next seed."""
        task.admitted_at = None
        self.tasks.move(task, ClipState.WAITING)
        self._out(task)
        self._let_in(task)

    # --- leaving early

    def drain(self, grace_s: float, *, hand_back: bool = True) -> None:
        """Admits nothing more, lets what is in the slots finish, commits, and returns when every
        row that was accepted is either durable or given up.

        Args:
            grace_s: After so many seconds the clips that are still in the slots are dropped.
            hand_back: Rows that were not made come back as status `drained`; otherwise their Ray
                tasks never return, and whoever ends this process has Ray send them elsewhere.
        """
        self._hands_back = hand_back
        self.drained_at = time.monotonic() + grace_s
        for task in self._admission.close():
            self.hand_back(task)
        while not self.tasks.is_idle:
            try:
                task, _ = self.loop.ready.get(timeout=0.05)
            except queue.Empty:
                continue
            self.hand_back(task)

    def _guard(self) -> None:
        """Raises where this run may no longer write."""
        check_held(self.storage, self.settings.lease_generation, self.settings.lease_token)


def _task_of(row: Prepared, extras: pa.Table, ray_task: RayTask) -> ClipTask:
    if isinstance(row, PreparedClip):
        return ClipTask(row, extras, ray_task, seed_used=row.spec.seed_used)
    return ClipTask(row, extras, ray_task, state=ClipState.DECODED)
