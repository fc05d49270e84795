"""In-flight batching: clips enter and leave a fixed set of rows while the others go on.

The engine has R = 2 x slots rows, whatever they hold. A clip occupies 1, 2 or 3 of them (no,
single, double guidance), starts as soon as they are free and leaves at its own length. Its leading
row, which sees the text and is sampled, is taken from the front, the others from the back. Clips
are admitted in the order of submission, or the longest first. A clip of several windows goes back
to the head of the queue after each, with what it has so far as the next one's opening. At equal R,
dtype and threads the tokens of a clip are the same bits whatever its mates, its rows and the moment
of its admission.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from musicgen.conditioning.fuser import ClipConditions
from musicgen.engine.cuda_graphs import make_stepper
from musicgen.engine.linear import upload
from musicgen.engine.prefill import fill_cross, fill_prefix
from musicgen.engine.request import (
    Finished,
    Limits,
    NonFiniteLogitsError,
    Request,
    Task,
    check_conditions,
    check_request,
)
from musicgen.engine.step import DecodeState, StepShape, round_up
from musicgen.engine.weights import StepWeights, prepare
from musicgen.lm import delay_pattern
from musicgen.lm.guidance import guidance_rows
from musicgen.lm.model import LMModel
from musicgen.lm.sampling import FilterShape, uniform

__all__ = ["Engine", "Finished", "NonFiniteLogitsError", "Request"]

ROWS_PER_SLOT = 2
_CHECK_STEPS = 64  # how often a clip is asked whether its logits are still finite


@dataclass(eq=False)
class _Clip:
    """A task in its rows: `position` is the cache cell that its next step fills."""

    task: Task
    rows: list[int]
    n_text: int
    position: int
    n_steps_left: int


class Engine:
    """Runs requests side by side; not thread-safe, belongs to one thread.

    Attributes:
        on_admit: Called with a request's key right before it enters its rows.
        n_steps: Decode steps so far.
        n_busy_rows: Rows held by clips, summed over those steps.
    """

    @torch.no_grad()
    def __init__(
        self,
        lm: LMModel,
        *,
        slots: int,
        max_frames: int,
        max_text_tokens: int = 512,
        max_audio_frames: int | None = None,
        dtype: str = "fp32",
        packed: bool | None = None,
        weights: StepWeights | None = None,
        graphs: bool | None = None,
        longest_first: bool = False,
    ) -> None:
        """Prepare weights and caches for good.

        Args:
            lm: The model, on its device; its weights are copied unless `weights` are given.
            slots: Clips with single guidance that run side by side.
            max_frames: Longest window.
            max_text_tokens: Longest text.
            max_audio_frames: Longest melody or style prefix; None takes it from the model.
            dtype: fp32, bf16, or (GPU only) fp16.
            packed: Whether linears run from packed weights; None where the device can.
            weights: What `prepare` made of `lm` for at least `n_cells` positions; engines may share
                them.
            graphs: Whether steps run as CUDA graphs; None where there is CUDA.
            longest_first: Whether the longest waiting clip is admitted next; else the first one.
        """
        if slots < 1:
            raise ValueError(f"--slots {slots}: the engine needs at least 1")
        self.cfg = lm.cfg
        self.n_rows = ROWS_PER_SLOT * slots
        if max_audio_frames is None:
            max_audio_frames = self.cfg.max_audio_frames
        self.limits = Limits(self.n_rows, max_frames, max_text_tokens, max_audio_frames)
        n_steps = delay_pattern.n_steps(max_frames, self.cfg.delays)
        n_cells = self.limits.n_cells(self.cfg)
        self._weights = weights or prepare(lm, dtype, n_cells, packed=packed)
        self._state = DecodeState.idle(self._weights, self.n_rows, n_cells, n_steps)
        self._step = make_stepper(self._weights, self._state, graphs=graphs)
        self._longest_first = longest_first
        self._waiting: deque[Task] = deque()
        self._active: list[_Clip] = []
        self._free_rows = list(range(self.n_rows))
        self._plan()
        self.on_admit: Callable[[str], None] | None = None
        self.n_steps = 0
        self.n_busy_rows = 0

    @property
    def n_active(self) -> int:
        """Clips that hold rows."""
        return len(self._active)

    @property
    def n_waiting(self) -> int:
        """Clips that wait for rows."""
        return len(self._waiting)

    @property
    def has_room(self) -> bool:
        """Whether a row is free that no waiting request will take."""
        return sum(task.request.n_rows for task in self._waiting) < len(self._free_rows)

    @property
    def occupancy(self) -> float:
        """Share of rows that were held, over all steps so far; 0 before the first."""
        return self.n_busy_rows / (self.n_steps * self.n_rows) if self.n_steps else 0.0

    def submit(self, request: Request) -> None:
        """Queue a request.

        Raises:
            ValueError: It could never run; the message says why.
        """
        check_request(request, self.cfg, self.limits)
        self._waiting.append(Task(request, request.prompt_codes))

    @torch.no_grad()
    def cancel(self, key: str) -> bool:
        """Drop a request, waiting or in its rows, without a result; whether it was there."""
        before = len(self._waiting) + len(self._active)
        self._waiting = deque(task for task in self._waiting if task.request.key != key)
        for clip in [clip for clip in self._active if clip.task.request.key == key]:
            self._active.remove(clip)
            self._release(clip.rows, wipe=True)
        self._plan()
        return len(self._waiting) + len(self._active) < before

    @torch.no_grad()
    def step(self) -> list[Finished]:
        """Admit what fits, run one decode step for all rows, return the clips that ended."""
        refused = self._admit()
        if not self._active:
            return refused
        n_keys = round_up(1 + max(clip.position for clip in self._active))
        self._step(replace(self._shape, n_keys=n_keys))
        self.n_steps += 1
        self.n_busy_rows += self.n_rows - len(self._free_rows)
        for clip in self._active:
            clip.position += 1
            clip.task.n_steps += 1
            clip.n_steps_left -= 1
        if self.n_steps % _CHECK_STEPS and all(clip.n_steps_left for clip in self._active):
            return refused
        return refused + self._collect()

    @torch.no_grad()
    def reset(self) -> None:
        """Drop every request, waiting or in its rows, also after an exception left `step`."""
        self._waiting.clear()
        self._active.clear()
        self._free_rows.clear()
        self._release(list(range(self.n_rows)), wipe=True)
        self._plan()

    def close(self) -> None:
        """Free rows and caches for good; the counts stay."""
        self._waiting.clear()
        self._active.clear()
        del self._state, self._step, self._weights

    def _admit(self) -> list[Finished]:
        """Move tasks into free rows, in the queue's order; return those that can't go on."""
        refused, admitted = [], False
        while (task := self._next_task()) is not None:
            if task.n_windows == 0 and self.on_admit is not None:
                self.on_admit(task.request.key)
            try:
                conditions = self._conditions(task)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:
                refused.append(Finished(task.request.key, None, error, task.n_steps))
                continue
            self._active.append(self._enter(task, conditions, self._take_rows(task)))
            admitted = True
        if admitted:
            self._plan()
        return refused

    def _next_task(self) -> Task | None:
        """The task that enters next, taken from the queue, if there are rows for it."""
        if not self._waiting:
            return None
        task = self._waiting[0]
        if self._longest_first:
            task = max(self._waiting, key=lambda waiting: waiting.n_frames_left)
        if task.request.n_rows > len(self._free_rows):
            return None
        self._waiting.remove(task)
        return task

    def _take_rows(self, task: Task) -> list[int]:
        """The first free row and as many of the last ones as the task's guidance needs."""
        n_more = task.request.n_rows - 1
        rows = [self._free_rows.pop(0)]
        return rows + [self._free_rows.pop() for _ in range(n_more)]

    def _conditions(self, task: Task) -> ClipConditions:
        """Conditions of the window that `task` runs next."""
        request, window = task.request, task.window
        conditions = request.conditions_of(window)
        if window.index:
            where = f"clip {request.key}, window {window.index}"
            check_conditions(conditions, self.cfg, self.limits, where)
        return conditions

    def _enter(self, task: Task, clip: ClipConditions, rows: list[int]) -> _Clip:
        """Bring a clip's window into `rows`: conditions, tokens, noise, parameters, cache."""
        cfg, state, weights = self.cfg, self._state, self._weights
        request, window = task.request, task.window
        conditions = guidance_rows(clip, cfg.fuse, request.sampling.guidance)
        sequence = delay_pattern.open_sequence(
            task.opening(), window.n_frames, cfg.delays, cfg.special_token
        )  # [K, S]
        noise = uniform(request.seed, cfg.n_codebooks, window.n_frames, window.first_frame)
        noise = delay_pattern.build(noise, cfg.delays, 0)  # [K, S]
        n_steps = sequence.shape[-1]
        prefix = conditions[0].prefix
        n_prefix = 0 if prefix is None else len(prefix)

        state.sequence[rows, :, :n_steps] = upload(sequence, weights.device)
        state.noise[rows, :, :n_steps] = upload(noise, weights.device)
        state.n_prefix[rows] = n_prefix
        state.step[rows] = window.n_prompt
        state.running[rows] = 1
        state.failed[rows] = False
        state.guidance.set(rows, request.sampling)
        state.sampling.set(rows[0], request.sampling)
        if fill_cross(weights, state, rows, conditions):
            self._step.forget()
        fill_prefix(weights, state, rows, conditions, sequence[:, : window.n_prompt])
        # Steps 0 .. T0 - 1 are fed by now. Step T0 comes next and decides T0 + 1; S - 1 is the last
        # to be decided and never fed.
        n_left = n_steps - 1 - window.n_prompt
        return _Clip(task, rows, len(clip.text), n_prefix + window.n_prompt, n_left)

    def _collect(self) -> list[Finished]:
        """Take out the windows that are complete or that failed, and queue what follows them."""
        failed = self._state.failed.tolist()
        ended = [c for c in self._active if not c.n_steps_left or failed[c.rows[0]]]
        finished, unfinished = [], []
        for clip in ended:
            task, bad = clip.task, failed[clip.rows[0]]
            if not bad:
                sequence = self._state.sequence[clip.rows[0]].cpu()  # [K, S]
                task.add(delay_pattern.revert(sequence, self.cfg.delays, task.window.n_frames))
            if bad or task.complete:
                finished.append(self._outcome(task, bad=bad))
            else:
                unfinished.append(task)
            self._release(clip.rows, wipe=bad)
            self._active.remove(clip)
        self._waiting.extendleft(reversed(unfinished))
        if ended:
            self._plan()
        return finished

    def _outcome(self, task: Task, *, bad: bool) -> Finished:
        key = task.request.key
        if not bad:
            return Finished(key, task.codes, None, task.n_steps)
        error = NonFiniteLogitsError(
            f"clip {key}: logits became NaN or infinite within {task.n_steps} of its steps; "
            "its conditions or the weights hold values that this dtype can't carry: "
            "try another prompt, or dtype fp32"
        )
        return Finished(key, None, error, task.n_steps)

    def _release(self, rows: list[int], *, wipe: bool) -> None:
        """Free `rows`; `wipe` removes values that no mask can hide."""
        state = self._state
        state.running[rows] = 0
        state.step[rows] = 0
        state.n_prefix[rows] = 0
        state.n_cross[rows] = 1
        state.sequence[rows] = self.cfg.special_token
        if wipe:
            for cache in state.caches + state.cross_caches:
                cache.wipe(rows)
        self._free_rows = sorted(self._free_rows + rows)

    def _plan(self) -> None:
        """Fix what stays the same until a clip enters or leaves."""
        params = [clip.task.request.sampling for clip in self._active]
        leads = sorted(clip.rows[0] for clip in self._active)
        n_text = max((clip.n_text for clip in self._active), default=1)
        n_leads = n_texts = self.n_rows
        n_rows = None
        if leads and self.n_rows <= self._weights.free_rows:
            n_leads, n_texts = leads[-1] + 1, max(2, leads[-1] + 1)
            if self._free_rows:
                rows = leads + [row for clip in self._active for row in clip.rows[1:]]
                rows += self._free_rows[: max(0, 2 - len(rows))]
                n_rows, n_texts = len(rows), max(2, len(leads))
                self._state.rows[:n_rows] = torch.tensor(rows)
        self._shape = StepShape(
            n_keys=round_up(1),
            n_cross_keys=round_up(n_text, self._weights.text_block),
            n_leads=n_leads,
            n_texts=n_texts,
            n_rows=n_rows,
            filters=FilterShape.of(params),
            double=any(p.guidance == "double" for p in params),
        )
