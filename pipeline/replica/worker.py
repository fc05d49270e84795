"""What a replica does with its rows: three threads, one station each.

    accept ─► conditioner ─► engine ─► finisher ─► call.done
              T5, codec      token     decode, measure,
              encode         loop      encode, commit

So the decode loop never waits for a codec or an upload. Knows nothing of Ray.
"""

import json
import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch

from musicgen.engine.engine import Engine
from pipeline import ledger
from pipeline.ledger.attempts import QUARANTINE, AttemptLog
from pipeline.ledger.lease import LeaseLostError, holds
from pipeline.ledger.writer import PartLimits, PartWriter
from pipeline.replica.admission import AdmissionQueue
from pipeline.replica.clip_rows import ClipRowBuilder
from pipeline.replica.decode_loop import DecodeLoop
from pipeline.replica.finisher import Finisher
from pipeline.replica.messages import ReplicaSettings
from pipeline.replica.model import is_broken_cuda, load_model, pick_device, pick_dtype
from pipeline.replica.task import ClipTask, RayTask, request_of
from pipeline.replica.watchdog import Watchdog
from pipeline.storage import open_storage
from pipeline.telemetry.logfmt import line
from pipeline.telemetry.metrics import Sample
from pipeline.telemetry.timing import ReplicaTimes

log = logging.getLogger(__name__)

FINISH_AT_ONCE_S = 600.0  # of audio, which bounds the memory that measuring takes


class ReplicaWorker:
    """A loaded model and the threads around it.

    Args:
        settings: The job, the model and the lease.
        attempts: The record of this process.
    """

    def __init__(self, settings: ReplicaSettings, attempts: AttemptLog) -> None:
        config = settings.config
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
        torch.set_num_threads(config.threads_per_replica)
        self.settings, self.config = settings, config
        self.attempts = attempts
        self.name = self.attempts.now.replica
        self.device = pick_device(config)
        self.dtype = pick_dtype(config, self.device)
        self.storage = open_storage(config.output, config.storage_options)
        self.model = load_model(settings, self.device, self.dtype)
        self.writer = PartWriter(
            self.storage,
            schema=settings.schema,
            run_id=settings.run_id,
            replica=self.name,
            audio=config.audio,
            audio_format=config.audio_format,
            limits=PartLimits(config.part_clips, config.part_megabytes * 1e6, config.part_seconds),
            guard=self._guard,
        )
        row_builder = ClipRowBuilder(
            config,
            settings.info,
            settings.run_id,
            self.name,
            self.device,
            self.dtype,
            settings.attempts,
        )
        self.parts_seen = ledger.PartCache()
        self._parts_lock = threading.Lock()
        self.times = ReplicaTimes()
        self.finisher = Finisher(
            settings, self.model, row_builder, self.writer, self.times, self._take_again
        )
        self._in_flight: dict[str, ClipTask] = {}  # accepted and not yet durable, by clip id
        self._watchdog = Watchdog(config.hang_timeout_s, self.attempts.blame)
        self.drained_at: float | None = None  # when the slots must be empty, monotonic seconds
        self.loop = DecodeLoop(self.model, config, self.times, self._watchdog, self)
        self._admission = AdmissionQueue[ClipTask](self.attempts, self.loop.n_slots)
        self._ended: queue.Queue[tuple[ClipTask, Exception | None] | None] = queue.Queue()
        self._lock = threading.Lock()
        self._waiting = 0  # rows accepted and not yet admitted
        self._behind = 0  # rows that left the engine and are not yet durable
        self._ray_tasks: set[RayTask] = set()
        self._fatal: BaseException | None = None
        self._hands_back = True  # what a drain leaves undone
        self.closed = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(each,), name=each.__name__, daemon=True)
            for each in (self._condition, self._generate, self._finish)
        ]
        for thread in self._threads:
            thread.start()
        log.info("replica=%s run=%s ready on %s", self.name, settings.run_id, self.device)

    def accept(self, rows: list[dict[str, Any]]) -> RayTask:
        """Sends prepared rows on their way; `call.done` resolves when each of them is durable, or
        raises what ended this replica."""
        specs = [json.loads(row["spec"]) for row in rows]
        known = self._committed(specs, rows)
        ray_task = RayTask(len(rows))
        with self._lock:
            if self._fatal is not None:
                raise self._fatal
            self._ray_tasks.add(ray_task)
        for spec, row in zip(specs, rows, strict=True):
            task = ClipTask(spec, row, ray_task)
            if row["kind"] == "letter":
                self._ended.put((task, None))
            elif task.clip_id in known:
                self._settle(task, {"status": "known", "clip_id": task.clip_id})
            elif task.clip_id in self.attempts.letters:
                self._settle(task, {"status": "letter", "clip_id": task.clip_id})
            elif self._is_first(task):
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
            Sample("clips_waiting", self._waiting),
            Sample("clips_uncommitted", self._behind),
        ]

    def close(self) -> None:
        """Ends the threads and drops what is under way; a replica ends with its process instead."""
        self.closed.set()
        self._watchdog.stop()
        self._admission.close()
        self._ended.put(None)
        for thread in self._threads:
            thread.join(timeout=10)
        self.finisher.close()

    def _let_in(self, task: ClipTask) -> None:
        refusal = self.attempts.refusal(task.clip_id)
        if refusal is not None:
            self.leave(task, QUARANTINE, refusal)
        elif not self._admission.put(task.clip_id, task):
            self.hand_back(task)

    def _is_first(self, task: ClipTask) -> bool:
        """Whether nobody works on this clip yet; a twin is settled by the commit of the first."""
        with self._lock:
            first = self._in_flight.setdefault(task.clip_id, task)
            if first is not task:
                first.twins.append(task)
                return False
            self._waiting += 1
            return True

    def _committed(self, specs: list[dict[str, Any]], rows: list[dict[str, Any]]) -> set[str]:
        """Clips of this task that stand in a part of this run already: Ray may replay a task after
        an actor or a node was lost."""
        done = self._done()
        return {
            spec["clip_id"]
            for spec, row in zip(specs, rows, strict=True)
            if row["kind"] == "clip" and done.contains(spec["clip_id"])
        }

    def _done(self) -> ledger.DoneSet:
        """What this run has committed so far, whoever did it; reads only parts not seen before."""
        with self._parts_lock:
            return ledger.clips_of_run(self.storage, self.settings.run_id, self.parts_seen)

    # --- the stations

    def _run(self, station: Callable[[], None]) -> None:
        """Whatever escapes a station ends every call with that error, and so the job."""
        try:
            station()
        except BaseException as error:
            log.exception("replica=%s station %s failed", self.name, station.__name__)
            if is_broken_cuda(error):
                self.attempts.blame([], f"{type(error).__name__}: {error}")
                os._exit(1)  # Ray starts a new actor; a clean exit would leave a zombie slot
            with self._lock:
                self._fatal = error
                ray_tasks, self._ray_tasks = self._ray_tasks, set()
            for ray_task in ray_tasks:
                if not ray_task.done.done():
                    ray_task.done.set_exception(error)

    def _condition(self) -> None:
        while group := self._admission.next_group():
            for task in group:
                if self.drained_at is not None:
                    self.hand_back(task)
                    continue
                try:
                    watching = self._watchdog.watching("conditioning", [task.clip_id])
                    beside = self.model.beside_the_engine()
                    with watching, self.times.beside("conditioning_s"), beside:
                        request = request_of(task, self.model)
                except (ValueError, RuntimeError, MemoryError) as error:
                    if is_broken_cuda(error):
                        raise
                    self.leave(task, "conditioning", error)
                else:
                    self.loop.ready.put((task, request))

    def _generate(self) -> None:
        self.loop.run(self.closed)

    def may_admit(self, n_inside: int) -> bool:
        """What a kill can cost is bounded: clips in the slots and those not yet durable are at most
        one part more than the slots."""
        return self._behind + n_inside < self.config.part_clips + self.loop.n_slots

    def on_admitted(self, task: ClipTask, engine: Engine) -> None:
        """A clip is about to enter its rows."""
        if task.admitted_at is None:
            task.admitted_at = time.monotonic()
            with self._lock:
                self._waiting -= 1
        self.times.admitted(engine.n_steps * engine.n_rows, engine.n_busy_rows)
        spec = task.spec
        ids = {"clip_id": task.clip_id, "id": spec["id"], "take": spec["take"]}
        log.info(line("admitted", run=self.settings.run_id, replica=self.name, **ids))

    def on_ended(self, task: ClipTask, error: Exception | None) -> None:
        """A clip has left the engine."""
        with self._lock:
            self._behind += 1
        self._ended.put((task, error))

    def leave(self, task: ClipTask, stage: str, error: Exception) -> None:
        """A row that fails outside the engine, or is taken out of it."""
        with self._lock:
            self._waiting -= task.admitted_at is None
            self._behind += 1
        task.spec["stage"] = stage
        self._ended.put((task, error))

    def _finish(self) -> None:
        """Decodes, measures, encodes and commits; the only thread that touches the writer."""
        uncommitted: list[tuple[ClipTask, dict[str, Any]]] = []
        while True:
            batch = self._next_ended(uncommitted)
            if batch is None:
                return
            clips = [task.clip_id for task, _ in batch if task.prepared["kind"] == "clip"]
            with self._watchdog.watching("decoding and encoding", clips):
                statuses = self.finisher.statuses(batch)
            for (task, _), status in zip(batch, statuses, strict=True):
                if status is None:
                    continue
                uncommitted.append((task, status))
                if not self._admission.isolating:
                    self._admission.out(task.clip_id)
                with self._lock:
                    task.ray_task.unfinished -= 1
            if uncommitted and (self.writer.due_in_s() == 0.0 or self._starved()):
                with self.times.beside("commit_s"):
                    self.writer.commit(self._done())
                self.times.committed()
                with self._lock:
                    self._behind -= sum(j.prepared["kind"] == "clip" for j, _ in uncommitted)
                for task, status in uncommitted:
                    self._admission.out(task.clip_id)
                    self._settle(task, status, finished=True)
                uncommitted = []

    def _next_ended(self, uncommitted: list[Any]) -> list[tuple[ClipTask, Exception | None]] | None:
        """What has left the engine, as many clips as are finished at once; None at the end."""
        batch: list[tuple[ClipTask, Exception | None]] = []
        room = max(1, min(self.config.encode_threads, self.config.part_clips - len(self.writer)))
        audio_s = 0.0
        try:
            while len(batch) < room and audio_s < FINISH_AT_ONCE_S:
                patience = 0.0 if batch else self._patience(uncommitted)
                ended = self._ended.get(block=patience != 0.0, timeout=patience)
                if ended is None:
                    return None
                batch.append(ended)
                audio_s += ended[0].spec.get("duration_s", 0.0)
        except queue.Empty:
            pass
        return batch

    def _patience(self, uncommitted: list[Any]) -> float | None:
        """How long the finisher may sleep: for ever, or until a part is due or rows run out."""
        if not uncommitted:
            return None
        return min(0.05, self.writer.due_in_s() or 0.0)

    def _starved(self) -> bool:
        """No row waits behind the slots and a commit would let a call return, which brings more."""
        if not self._ended.empty():
            return False
        with self._lock:
            ready = any(
                ray_task.unfinished == 0 and ray_task.uncommitted for ray_task in self._ray_tasks
            )
            return self._admission.isolating or (self._waiting == 0 and ready)

    def _settle(self, task: ClipTask, status: dict[str, Any], finished: bool = False) -> None:
        ray_task = task.ray_task
        with self._lock:
            ray_task.statuses.append(status)
            ray_task.unfinished -= not finished
            ray_task.uncommitted -= 1
            last = ray_task.uncommitted == 0
            if last:
                self._ray_tasks.discard(ray_task)
            if self._in_flight.get(task.clip_id) is task:
                del self._in_flight[task.clip_id]
        lost = not self._hands_back and any(s["status"] == "drained" for s in ray_task.statuses)
        if last and not lost and not ray_task.done.done():
            ray_task.done.set_result(None)
        for twin in task.twins:
            drained = status["status"] == "drained"
            self._settle(twin, status if drained else status | {"status": "known", "audio_s": None})

    # --- leaving early

    def drain(self, grace_s: float, *, hand_back: bool = True) -> None:
        """Admits nothing more, lets what is in the slots finish, commits, and returns when every
        row that was accepted is either durable or given up.

        Args:
            grace_s: After so many seconds the clips that are still in the slots are dropped.
            hand_back: Rows that were not made come back as status `drained`; otherwise their calls
                never return, and whoever ends this process has Ray send them elsewhere.
        """
        self._hands_back = hand_back
        self.drained_at = time.monotonic() + grace_s
        for task in self._admission.close():
            self.hand_back(task)
        while self._ray_tasks:
            try:
                task, _ = self.loop.ready.get(timeout=0.05)
            except queue.Empty:
                continue
            self.hand_back(task)

    def hand_back(self, task: ClipTask) -> None:
        with self._lock:
            self._waiting -= task.admitted_at is None
        self._admission.out(task.clip_id)
        self._settle(task, {"status": "drained", "clip_id": task.clip_id})

    def _take_again(self, task: ClipTask) -> None:
        """Sends a clip back to the queue, with another seed in its spec."""
        with self._lock:
            self._behind -= 1
            self._waiting += 1
        task.admitted_at = None
        self._admission.out(task.clip_id)
        self._let_in(task)

    def _guard(self) -> None:
        s = self.settings
        if not holds(self.storage, s.lease_generation, s.lease_token):
            raise LeaseLostError(
                f"{self.config.output} was taken over by another run; this replica commits no more"
            )
