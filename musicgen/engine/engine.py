"""In-flight batching: clips enter and leave a fixed set of rows while the others go on.

Each call of `Engine.step` schedules (admits waiting clips into free rows), runs one decode step for
all rows, and collects the clips that are complete.

The engine has R = 2 x slots rows, whatever they hold. A clip occupies 1, 2 or 3 of them (no,
single, double guidance), starts as soon as they are free and leaves at its own length. A clip of
several windows returns to the queue after each, and its codes so far are the next one's opening. At
equal R, dtype and threads the tokens of a clip are the same bits whatever runs beside it, whichever
rows it holds and whenever it is admitted.
"""

from collections.abc import Callable
from dataclasses import replace

import torch

from musicgen.conditioning.fuser import ClipConditions
from musicgen.engine.cuda import DeviceStream, mark
from musicgen.engine.cuda_graphs import EagerStep, GraphedStep, make_step
from musicgen.engine.device_errors import is_out_of_memory
from musicgen.engine.prefill import fill_cross, fill_prefix
from musicgen.engine.request import (
    ROWS_PER_SLOT,
    EngineOptions,
    EngineOutput,
    Limits,
    NonFiniteLogitsError,
    Request,
    WindowStart,
    check_conditions,
    check_request,
)
from musicgen.engine.scheduler import ClipProgress, RunningClip, Scheduler
from musicgen.engine.step import DecodeState, StepShape, round_up
from musicgen.engine.weights import StepWeights, prepare
from musicgen.lm import delay_pattern
from musicgen.lm.guidance import guidance_rows
from musicgen.lm.model import LMModel
from musicgen.lm.sampling import FilterShape

__all__ = [
    "ROWS_PER_SLOT",
    "Engine",
    "EngineOptions",
    "EngineOutput",
    "NonFiniteLogitsError",
    "Request",
]

_CHECK_STEPS = 64  # steps between two looks at whether all logits are still finite


class Engine:
    """Runs requests side by side; not thread-safe, belongs to one thread.

    Attributes:
        cfg: Shape of the model.
        limits: The largest request that the engine can run.
        weights: The model as the engine runs it; engines may share it.
        state: What the rows carry from step to step, caches included.
        stream: On which everything runs that touches them.
        scheduler: The queue, the running clips and the free rows.
        shape: The static shape of the next step, except for `n_keys`, which each step sets.
        run_step: Runs one decode step of a given shape over `state`.
        on_admit: Called with a request's key right before it enters its rows.
        n_steps: Decode steps so far.
        n_busy_rows: Rows held by clips, summed over those steps.
    """

    @torch.no_grad()
    def __init__(
        self, lm: LMModel, options: EngineOptions, weights: StepWeights | None = None
    ) -> None:
        """Prepare weights and caches for the engine's lifetime.

        Args:
            lm: The model, on its device; its weights are copied unless `weights` are given.
            options: Size and number format of the engine.
            weights: What `prepare` made of `lm` for at least `Limits.n_cells` positions.
        """
        self.cfg = lm.cfg
        n_audio = options.max_audio_frames
        self.limits = Limits(
            options.n_rows,
            options.max_frames,
            options.max_text_tokens,
            self.cfg.max_audio_frames if n_audio is None else n_audio,
        )
        n_steps = delay_pattern.n_steps(options.max_frames, self.cfg.delays)
        n_cells = self.limits.n_cells(self.cfg)
        self.weights = weights or prepare(lm, options.dtype, n_cells, packed=options.packed)
        self.stream = DeviceStream(self.weights.device, urgent=True)
        with self.stream.running():
            self.state = DecodeState.idle(self.weights, self.n_rows, n_cells, n_steps)
            self.run_step: GraphedStep | EagerStep = make_step(
                self.weights,
                self.state,
                graphs=options.graphs,
                kernels=options.kernels,
                stream=self.stream,
            )
        self.scheduler = Scheduler(self.n_rows, longest_first=options.longest_first)
        self.shape = self._next_shape()
        self.on_admit: Callable[[str], None] | None = None
        self.n_steps = 0
        self.n_busy_rows = 0

    @property
    def n_rows(self) -> int:
        """Rows R."""
        return self.limits.n_rows

    @property
    def n_active(self) -> int:
        """Clips that hold rows."""
        return len(self.scheduler.running)

    @property
    def n_waiting(self) -> int:
        """Clips that wait for rows."""
        return len(self.scheduler.waiting)

    @property
    def has_room(self) -> bool:
        """Whether a row is free that no waiting request will take."""
        return self.scheduler.has_room

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
        if request.ready is None:
            request = replace(request, ready=mark(self.weights.device))
        self.scheduler.submit(request)

    @torch.no_grad()
    def cancel(self, key: str) -> bool:
        """Drop a request, waiting or in its rows, without a result; whether it was there."""
        n_dropped = self.scheduler.drop_waiting(key)
        running = [c for c in self.scheduler.running if c.progress.request.key == key]
        with self.stream.running():
            for clip in running:
                self.state.clear(clip.rows, self.cfg.special_token, wipe=True)
                self.scheduler.end(clip)
            self.shape = self._next_shape()
        return bool(n_dropped or running)

    @torch.no_grad()
    def step(self) -> list[EngineOutput]:
        """Admit what fits, run one decode step for all rows, return the clips that ended."""
        with self.stream.running():
            return self._step()

    def _step(self) -> list[EngineOutput]:
        refused = self._admit()
        running = self.scheduler.running
        if not running:
            return refused
        n_keys = round_up(1 + max(clip.position for clip in running))
        self.run_step(replace(self.shape, n_keys=n_keys))
        self.n_steps += 1
        self.n_busy_rows += self.n_rows - len(self.scheduler.free_rows)
        for clip in running:
            clip.position += 1
            clip.progress.n_steps += 1
            clip.n_steps_left -= 1
        if self.n_steps % _CHECK_STEPS and all(clip.n_steps_left for clip in running):
            return refused
        return refused + self._collect()

    @torch.no_grad()
    def reset(self) -> None:
        """Drop every request, waiting or in its rows, also after an exception left `step`."""
        self.scheduler.clear()
        with self.stream.running():
            self.state.clear(list(range(self.n_rows)), self.cfg.special_token, wipe=True)
            self.shape = self._next_shape()

    def close(self) -> None:
        """Free weights and caches for good; the counts stay."""
        self.scheduler.clear()
        self.stream.synchronize()
        del self.state, self.run_step, self.weights

    def _admit(self) -> list[EngineOutput]:
        """Move clips into free rows, in the scheduler's order; return those that can't go on."""
        refused, admitted = [], False
        while (clip := self.scheduler.next_clip()) is not None:
            if clip.n_windows == 0 and self.on_admit is not None:
                self.on_admit(clip.request.key)
            try:
                conditions = self._conditions(clip)
            except Exception as error:
                if is_out_of_memory(error):
                    raise
                refused.append(EngineOutput(clip.request.key, None, error, clip.n_steps))
                continue
            rows = self.scheduler.take_rows(clip.request.n_rows)
            self.scheduler.running.append(self._enter(clip, conditions, rows))
            admitted = True
        if admitted:
            self.shape = self._next_shape()
        return refused

    def _conditions(self, clip: ClipProgress) -> ClipConditions:
        """Conditions of the window that `clip` runs next."""
        request, window = clip.request, clip.window
        conditions = request.conditions_of(window)
        if window.index:
            where = f"clip {request.key}, window {window.index}"
            check_conditions(conditions, self.cfg, self.limits, where)
        return conditions

    def _enter(self, clip: ClipProgress, given: ClipConditions, rows: list[int]) -> RunningClip:
        """Bring a clip's window into `rows`: conditions, tokens, noise, parameters, cache."""
        cfg, state, weights = self.cfg, self.state, self.weights
        request, window = clip.request, clip.window
        self.stream.receive((given.text, given.audio, given.null_audio), request.ready)
        conditions = guidance_rows(given, cfg.fuse, request.sampling.guidance)
        start = request.start
        if start is None or not start.fits(request.seed, window, clip.codes):
            start = WindowStart.of(cfg, request.seed, window, clip.codes, weights.device)
        on_device = start.table.to(weights.device, non_blocking=True)  # [2, K, S]
        sequence, noise = on_device[0], on_device[1].view(torch.float64)  # [K, S] each
        prefix = conditions[0].prefix
        n_prefix = 0 if prefix is None else len(prefix)

        state.begin(rows, sequence, noise, n_prefix=n_prefix, step=window.n_prompt)
        state.guidance.set(rows, request.sampling)
        state.sampling.set(rows[0], request.sampling)
        if fill_cross(weights, state, rows, conditions):
            self.run_step.forget()
        fill_prefix(weights, state, rows, conditions, sequence[:, : window.n_prompt])
        # The steps 0 .. T0 - 1 are fed by now. Step T0 comes next and decides T0 + 1; S - 1 is the
        # last one to be decided and is never fed.
        n_left = sequence.shape[-1] - 1 - window.n_prompt
        return RunningClip(clip, rows, len(given.text), n_prefix + window.n_prompt, n_left)

    def _collect(self) -> list[EngineOutput]:
        """Take out the windows that are complete or failed; return the clips that ended."""
        failed = self.state.failed.tolist()
        ended = [c for c in self.scheduler.running if not c.n_steps_left or failed[c.rows[0]]]
        outputs, unfinished = [], []
        for running in ended:
            clip, bad = running.progress, failed[running.rows[0]]
            if not bad:
                sequence = self.state.sequence[running.rows[0]].cpu()  # [K, S]
                clip.add(delay_pattern.revert(sequence, self.cfg.delays, clip.window.n_frames))
            if bad or clip.complete:
                outputs.append(_output(clip, bad=bad))
            else:
                unfinished.append(clip)
            self.state.clear(running.rows, self.cfg.special_token, wipe=bad)
            self.scheduler.end(running)
        self.scheduler.return_to_queue(unfinished)
        if ended:
            self.shape = self._next_shape()
        return outputs

    def _next_shape(self) -> StepShape:
        """The shape of the steps until the next clip enters or leaves.

        Where the weights allow it, only the first rows that may lead a clip are sampled, and only
        rows that a clip holds are computed; `state.rows` then says which.
        """
        running, free_rows = self.scheduler.running, self.scheduler.free_rows
        params = [clip.progress.request.sampling for clip in running]
        leads = sorted(clip.rows[0] for clip in running)
        n_text = max((clip.n_text for clip in running), default=1)
        n_leads = n_texts = self.n_rows
        n_rows = None
        if leads and self.n_rows <= self.weights.free_rows:
            n_leads, n_texts = leads[-1] + 1, max(2, leads[-1] + 1)
            if free_rows:
                rows = leads + [row for clip in running for row in clip.rows[1:]]
                rows += free_rows[: max(0, 2 - len(rows))]
                n_rows, n_texts = len(rows), max(2, len(leads))
                self.state.rows[:n_rows] = torch.tensor(rows)
        return StepShape(
            n_keys=round_up(1),
            n_cross_keys=round_up(n_text, self.weights.text_block),
            n_leads=n_leads,
            n_texts=n_texts,
            n_rows=n_rows,
            filters=FilterShape.of(params),
            double=any(p.guidance == "double" for p in params),
        )


def _output(clip: ClipProgress, *, bad: bool) -> EngineOutput:
    key = clip.request.key
    if not bad:
        return EngineOutput(key, clip.codes, None, clip.n_steps)
    error = NonFiniteLogitsError(
        f"clip {key}: logits became NaN or infinite within {clip.n_steps} of its steps; "
        "its conditions or the weights hold values that this dtype can't carry: "
        "try another prompt, or dtype fp32"
    )
    return EngineOutput(key, None, error, clip.n_steps)
