"""One clip on its way through a replica, and the table that says where each of them is.

    waiting ─► admitted ─► decoded ─► finished ─► durable
       ▲  └────────┬──────────┘│ (a refused or failed clip skips what it can't do)
       └───────────┼───────────┘ (a re-take waits again)
                   └─► handed back (a drain leaves it undone)

Takes that are judged together are held between decoded and finished, until the last one comes.
`TaskTable.move` is the only place where a state changes, and every count is derived from it.
"""

import threading
from collections import Counter
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from enum import Enum

import pyarrow as pa
import torch

from musicgen.config import SamplingParams
from musicgen.engine.request import Request
from musicgen.model import MusicGen
from musicgen.request_builder import GenerationRequest
from pipeline.planning.clips import ClipSpec
from pipeline.prepare.prepared import Prepared, PreparedClip
from pipeline.replica.messages import ClipStatus

# Parameters of the engine's sampling, under their names in the manifest.
SAMPLING = ("use_sampling", "temperature", "top_k", "top_p", "cfg_coef", "cfg_coef_beta")


class ClipState(Enum):
    """Where a clip is."""

    WAITING = "waiting"  # accepted, and not in the engine
    ADMITTED = "admitted"  # in the engine
    DECODED = "decoded"  # out of the engine, with codes or with the error that ended it
    HELD = "held"  # finished, and judged when the other takes of its row are
    FINISHED = "finished"  # its row waits for the next commit
    DURABLE = "durable"  # it stands in a part, or a dead letter in its place
    HANDED_BACK = "handed back"  # left undone by a drain


OPEN = (ClipState.WAITING, ClipState.ADMITTED, ClipState.DECODED, ClipState.HELD)
UNCOMMITTED = (ClipState.DECODED, ClipState.FINISHED)
SETTLED = (ClipState.DURABLE, ClipState.HANDED_BACK)


@dataclass(eq=False)
class ClipTask:
    """One row of a Ray task on its way through the replica.

    Attributes:
        prepared: The clip, or the dead letter that takes its place.
        extras: The manifest's extra columns of its row, a table of one row.
        ray_task: The Ray task that brought it.
        seed_used: Seed of the present try; a re-take has another than the take.
        retake: How often the clip was made again after it failed its quality checks.
        duplicates: Tasks that ask for the same clip. They share this one's state and end, and
            count as no clips of their own.
        request: What the engine runs, while the clip is in it.
        codes: [K, T] what the engine made.
        engine_rows: Rows of the engine that made it.
        admitted_at: When it entered the engine, monotonic seconds.
        stage: Where it failed, None as long as it has not.
        error: Why it failed.
    """

    prepared: Prepared
    extras: pa.Table
    ray_task: "RayTask"
    state: ClipState = ClipState.WAITING
    seed_used: int = 0
    retake: int = 0
    duplicates: list["ClipTask"] = field(default_factory=list)
    request: Request | None = None
    codes: torch.Tensor | None = None
    engine_rows: int = 0
    admitted_at: float | None = None
    stage: str | None = None
    error: Exception | None = None

    @property
    def is_clip(self) -> bool:
        """False for a dead letter from the prepare pool, which is only to be committed."""
        return isinstance(self.prepared, PreparedClip)

    @property
    def clip(self) -> PreparedClip:
        """The clip; only where `is_clip`."""
        assert isinstance(self.prepared, PreparedClip)
        return self.prepared

    @property
    def spec(self) -> ClipSpec:
        """The clip's spec; only where `is_clip`."""
        return self.clip.spec

    @property
    def clip_id(self) -> str | None:
        """Identity of the clip; None for a dead letter of a whole row."""
        if isinstance(self.prepared, PreparedClip):
            return self.prepared.spec.clip_id
        return self.prepared.clip_id

    def judged_again(self) -> None:
        """Notes that the clip is committed, and made only to be judged with its siblings."""
        judged = self.clip.judged
        assert judged is not None
        self.prepared = replace(self.clip, judged=replace(judged, stands=True))

    @property
    def duration_s(self) -> float:
        """Seconds of audio that it holds or will hold."""
        return self.spec.params.duration_s if self.is_clip else 0.0


class RayTask:
    """The rows that one Ray task brought. It returns when each of them is settled.

    Attributes:
        done: Resolves then, or raises what ended the replica.
        statuses: What became of the rows so far.
    """

    def __init__(self) -> None:
        self.tasks: list[ClipTask] = []
        self.statuses: list[ClipStatus] = []
        self.done: Future[None] = Future()

    @property
    def is_settled(self) -> bool:
        """Whether every row is durable or was handed back."""
        return all(task.state in SETTLED for task in self.tasks)

    @property
    def waits_for_commit(self) -> bool:
        """Whether a commit would let it return: every row has left the engine and been finished,
        and some are not durable yet."""
        return not self.is_settled and not any(task.state in OPEN for task in self.tasks)


class TaskTable:
    """The clips that a replica has in hand, by state. Safe for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_id: dict[str, ClipTask] = {}  # those that work goes on for, without duplicates
        self._counts: Counter[ClipState] = Counter()  # of clips
        self._ray_tasks: set[RayTask] = set()
        self._fatal: BaseException | None = None

    def begin(self, ray_task: RayTask) -> None:
        """Takes the rows of a Ray task; raises what ended this replica, if it has ended."""
        with self._lock:
            if self._fatal is not None:
                raise self._fatal
            self._ray_tasks.add(ray_task)

    def add(self, task: ClipTask) -> bool:
        """Takes up work on a clip. False where it is in hand already: then the task waits for the
        one that came first."""
        assert task.clip_id is not None
        with self._lock:
            first = self._by_id.setdefault(task.clip_id, task)
            if first is not task:
                first.duplicates.append(task)
                task.state = first.state
                return False
            self._counts[task.state] += 1
            return True

    def move(self, task: ClipTask, state: ClipState) -> None:
        """The clip is in another state from now on, unless a drain has handed it back."""
        with self._lock:
            if task.state not in SETTLED:
                self._move(task, state)

    def settle(self, task: ClipTask, status: ClipStatus) -> list[RayTask]:
        """The end of a clip: durable or handed back, duplicates included.

        Returns:
            The Ray tasks of which it was the last row.
        """
        state = ClipState.HANDED_BACK if status.status == "drained" else ClipState.DURABLE
        with self._lock:
            self._move(task, state)
            if task.clip_id is not None and self._by_id.get(task.clip_id) is task:
                del self._by_id[task.clip_id]
                self._counts[state] -= 1
            task.ray_task.statuses.append(status)
            for other in task.duplicates:
                other.ray_task.statuses.append(status.as_known())
            asked = dict.fromkeys(each.ray_task for each in (task, *task.duplicates))
            ended = [ray_task for ray_task in asked if ray_task.is_settled]
            self._ray_tasks.difference_update(ended)
            return ended

    def fail(self, error: BaseException) -> list[RayTask]:
        """The replica ends with an error. Returns the Ray tasks that end with it."""
        with self._lock:
            self._fatal = error
            ray_tasks, self._ray_tasks = self._ray_tasks, set()
            return list(ray_tasks)

    @property
    def n_waiting(self) -> int:
        """Clips in front of the engine."""
        return self._counts[ClipState.WAITING]

    @property
    def n_uncommitted(self) -> int:
        """Clips that left the engine and are not yet durable."""
        return sum(self._counts[state] for state in UNCOMMITTED)

    @property
    def n_in_hand(self) -> int:
        """Clips that are not yet settled."""
        return len(self._by_id)

    @property
    def is_idle(self) -> bool:
        """Whether every Ray task has returned."""
        return not self._ray_tasks

    def a_ray_task_waits_for_commit(self) -> bool:
        """Whether a commit now would let at least one Ray task return."""
        with self._lock:
            return any(ray_task.waits_for_commit for ray_task in self._ray_tasks)

    def _move(self, task: ClipTask, state: ClipState) -> None:
        if task.clip_id is not None and self._by_id.get(task.clip_id) is task:
            self._counts[task.state] -= 1
            self._counts[state] += 1
        for each in (task, *task.duplicates):
            each.state = state


def request_of(task: ClipTask, model: MusicGen) -> Request:
    """What the engine needs for a clip: text, melody, style and opening are encoded here.

    Raises:
        ValueError: The row asks for what the model can't make.
    """
    clip, spec = task.clip, task.spec
    request = GenerationRequest(
        key=spec.clip_id,
        prompt=spec.prompt,
        n_frames=clip.n_frames,
        seed=task.seed_used,
        sampling=SamplingParams(**{name: getattr(spec.params, name) for name in SAMPLING}),
        melody_chroma=None if clip.melody is None else torch.from_numpy(clip.melody).long(),
        style=None if clip.style is None else torch.from_numpy(clip.style),
        continuation=None if clip.continuation is None else torch.from_numpy(clip.continuation),
        extend_stride_s=spec.params.extend_stride_s,
    )
    return model.make_request(request)


class DeadlineError(RuntimeError):
    """A clip was not ready in time."""

    def __init__(self, took_s: float, limit_s: float) -> None:
        super().__init__(
            f"taken out of the engine {took_s:.1f} s after its admission, {limit_s:g} s are "
            "allowed: shorten the clip or raise --row-timeout-s, then `musicgen-batch retry`"
        )
