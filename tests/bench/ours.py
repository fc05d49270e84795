"""Our side: the engine as a job uses it."""

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from time import perf_counter
from typing import Any

import torch

from musicgen.engine.engine import Engine, Request
from musicgen.model import MusicGen
from musicgen.request_builder import GenerationRequest
from pipeline.replica.malloc import keep_freed_memory
from tests.bench import machine
from tests.bench.workload import SAMPLING, Clip, Timed, Workload, batches, longest_first


class Ours:
    """A loaded model and its engine.

    Args:
        folder: Checkpoint.
        dtype: What the language model computes in; T5 and EnCodec stay fp32, as they ship.
        slots: Clips in flight.
        threads: Of torch.
        device: Where.
    """

    def __init__(
        self, folder: str, dtype: str, slots: int, threads: int, device: str = "cpu"
    ) -> None:
        torch.set_num_threads(threads)
        self.device, self.dtype = device, dtype
        if device == "cpu":
            keep_freed_memory()  # as a replica does
        self.model = MusicGen.get_pretrained(folder, device=device, dtype=dtype)
        self.slots = slots
        self.engine = self.model.make_engine(slots)

    def limits(self, **sizes: int) -> dict[str, Any]:
        """What the machine can do, in this process."""
        return machine.limits(self.dtype, self.device, **sizes)

    def describe(self) -> dict[str, Any]:
        """Machine and versions, as this process sees them."""
        return machine.describe()

    def warm_up(self, frames: int, longest_s: float = 0.0) -> None:
        """A few clips, and the codec once on the longest, so that nothing is done for the first
        time when it is timed."""
        lm, n_frames = self.model.lm.cfg, round(longest_s * self.model.frame_rate)
        if n_frames:
            self.model.decode(torch.zeros(lm.n_codebooks, n_frames, dtype=torch.long))
        self._run([Clip(f"warm up {i}", frames / 50, i) for i in range(self.slots)])

    def run(self, workload: dict[str, Any], round: int, order: str = "arrival") -> dict[str, Any]:
        """In-flight batching, in order of arrival or longest first."""
        clips = Workload(**workload).clips(round)
        return self._run(clips if order == "arrival" else longest_first(clips)).told()

    def run_static(self, workload: dict[str, Any], round: int) -> dict[str, Any]:
        """The same engine, a batch at a time: the next begins when the longest clip has ended."""
        parts = [self._run(part) for part in batches(Workload(**workload).clips(round), self.slots)]
        fields = ("audio_s", "wall_s", "decode_s", "n_steps")
        return Timed(*(sum(getattr(part, name) for part in parts) for name in fields)).told()

    def run_full(self, slots: int, seconds: float) -> dict[str, Any]:
        """As many clips of `seconds` as there are slots, in an engine of that many."""
        engine = self.model.make_engine(slots)
        self._run([Clip(f"first {i}", 0.2, i) for i in range(slots)], engine)
        return self._run([Clip(f"then {i}", seconds, i) for i in range(slots)], engine).told()

    def steps(self, n_clips: int, lengths: Sequence[int], repeats: int) -> dict[str, float]:
        """Median seconds of a whole engine step by tokens in the caches, all slots busy.

        Args:
            n_clips: Slots, and clips in them.
            lengths: Tokens that each clip opens with.
            repeats: Steps that are timed.
        """
        engine = self.model.make_engine(n_clips)
        return {str(n): self._step_s(engine, n_clips, n, repeats) for n in lengths}

    def _step_s(self, engine: Engine, n_clips: int, n_tokens: int, repeats: int) -> float:
        warm_up = 2  # the first admits and fills the caches, the second may compile
        lm = self.model.lm.cfg
        opening = torch.randint(lm.card, (lm.n_codebooks, n_tokens))  # [K, T]
        for index in range(n_clips):
            clip = Clip(f"step {index}", (n_tokens + repeats + 10) / self.model.frame_rate, index)
            request = self._request(str(index), clip)
            engine.submit(replace(request, prompt_codes=opening, windows=()))
        taken = machine.times_s(engine.step, self.device, repeats, warm_up)
        engine.reset()
        return median(taken)

    def _run(self, clips: Sequence[Clip], engine: Engine | None = None) -> Timed:
        """From the first prompt to the last sample."""
        engine = engine or self.engine
        first_step, decode_s, audio_s = engine.n_steps, 0.0, 0.0
        started = perf_counter()
        waiting = deque(enumerate(clips))
        while waiting or engine.n_active or engine.n_waiting:
            while waiting and engine.has_room:
                index, clip = waiting.popleft()
                engine.submit(self._request(str(index), clip))
            for finished in engine.step():
                if finished.codes is None:
                    raise RuntimeError(f"clip {finished.key} failed") from finished.error
                from_codes = perf_counter()
                wav = self.model.decode(finished.codes)  # [C, N]
                decode_s += perf_counter() - from_codes
                audio_s += wav.shape[-1] / self.model.sample_rate
        return Timed(audio_s, perf_counter() - started, decode_s, engine.n_steps - first_step)

    def _request(self, key: str, clip: Clip) -> Request:
        n_frames = clip.frames(self.model.frame_rate)
        return self.model.make_request(
            GenerationRequest(key, clip.prompt, n_frames, clip.seed, SAMPLING)
        )
