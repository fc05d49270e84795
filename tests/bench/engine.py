"""`make bench`: the engine against transformers on this machine; writes `out/bench/engine.json`.

Both sides make the same clips from the same weights, and take turns so that a noisy machine is
noisy for both. A speed is asked audio-seconds per second, from the first prompt to the last sample:
text encoding and codec count on both sides (`..._tokens` leaves the codec out on both).

    python -m tests.bench.engine [--dtype fp32] [--only throughput] [--out FILE] [--shape small]
"""

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from musicgen.engine.linear import has_fast_bf16
from tests.bench import machine
from tests.bench.shapes import SHAPES, checkpoint
from tests.bench.workers import TUNED_MALLOC, Process, Side
from tests.bench.workload import Workload

OUT = Path("out/bench")
CLIPS = Workload(24, 1.0, 6.0)
PIECES = ("throughput", "steps", "batching")
log = logging.getLogger("bench")

Start = Callable[..., AbstractContextManager[Side]]  # (side, env=, **settings)
Result = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        shape: Of the model.
        dtypes: Each is compared with the peer in the same.
        device: Where.
        threads: Of torch, on both sides.
        workload: The clips.
        slots: Clips in flight, and the peer's batch.
        batches: Clips per step in the table of step times.
        lengths: Tokens in the cache in that table.
        repeats: Timed steps per cell.
        slot_counts: Engines that are compared with each other.
        full_s: Length of the clips that fill them.
        warm_up_frames: Frames of the clips that are not timed.
        limits: Sizes for `machine.limits`.
    """

    shape: str = "small"
    dtypes: tuple[str, ...] = ("fp32", "bf16") if has_fast_bf16() else ("fp32",)
    device: str = "cpu"
    threads: int = field(default_factory=lambda: os.cpu_count() or 1)
    workload: Workload = CLIPS
    slots: int = 8
    batches: tuple[int, ...] = (1, 4, 8)
    lengths: tuple[int, ...] = (100, 700, 1400)
    repeats: int = 5
    slot_counts: tuple[int, ...] = (1, 2, 4, 8, 16)
    full_s: float = 3.0
    warm_up_frames: int = 10
    limits: dict[str, int] = field(default_factory=dict)


@dataclass
class Bench:
    """One number format: who answers, and what has been found."""

    plan: Plan
    start: Start
    folder: Path
    dtype: str

    def side(self, name: str, env: dict[str, str] | None = None) -> AbstractContextManager[Side]:
        """A side with its model loaded."""
        plan = self.plan
        return self.start(
            name,
            env=env,
            folder=str(self.folder),
            dtype=self.dtype,
            slots=plan.slots,
            threads=plan.threads,
            device=plan.device,
        )

    def throughput(self) -> Result:
        """Clips by both sides: ours before and after each way of the peer's.

        Ours are admitted longest first, as `generate` and a job do with the clips that they know;
        once in order of arrival, as from a queue that nobody looks into.
        """
        work = {"workload": asdict(self.plan.workload)}
        found: Result = {"ours": []}
        with ExitStack() as stack:
            ours = stack.enter_context(self.side("ours"))
            peer = stack.enter_context(self.side("peer"))
            ways = [("arrival", peer, "arrival"), ("sorted", peer, "sorted")]
            if self.plan.device == "cpu":  # the allocator is glibc's
                tuned = stack.enter_context(self.side("peer", TUNED_MALLOC))
                ways.append(("arrival_tuned_malloc", tuned, "arrival"))
            for side in {id(side): side for side in (ours, *(way[1] for way in ways))}.values():
                side.ask("warm_up", **self._warm_up())
            found["ours"].append(ours.ask("run", round=0, order="sorted", **work))
            for round, (way, side, order) in enumerate(ways, start=1):
                found[way] = side.ask("run", round=round, order=order, **work)
                found["ours"].append(ours.ask("run", round=round, order="sorted", **work))
                found |= _ratios(way, found["ours"][-2:], found[way])
                self._say(f"vs_{way} {found[f'vs_{way}']:.2f}")
            found["ours_in_order"] = ours.ask("run", round=9, **work)
            found["in_order_vs_arrival"] = (
                found["ours_in_order"]["speed"] / found["arrival"]["speed"]
            )
            found["machine"] = ours.ask("describe")
        return found

    def steps(self) -> Result:
        """Step times, and how far they are above what the machine allows."""
        plan = self.plan
        measured: list[tuple[int, Result]] = []
        with self.side("ours") as ours, self.side("peer") as peer:
            before = ours.ask("limits", **plan.limits)
            for n_clips in plan.batches:
                cell = {"n_clips": n_clips, "lengths": plan.lengths, "repeats": plan.repeats}
                taken = {name: side.ask("steps", **cell) for name, side in
                         (("ours_s", ours), ("peer_s", peer))}  # fmt: skip
                measured.append((n_clips, taken))
            limits = machine.best_of(before, ours.ask("limits", **plan.limits))
        cells = [
            self._cell(
                n_clips,
                n_tokens,
                {name: told[str(n_tokens)] for name, told in taken.items()},
                limits,
            )
            for n_clips, taken in measured
            for n_tokens in plan.lengths
        ]
        at_slots = [cell for cell in cells if cell["n_clips"] == plan.slots]
        ratios = {f"floor_ratio_t{cell['n_tokens']}": cell["floor_ratio"] for cell in at_slots}
        return ratios | {"limits": limits, "steps": cells}

    def _cell(self, n_clips: int, n_tokens: int, seconds: Result, limits: Result) -> Result:
        lm = SHAPES[self.plan.shape].lm
        floor = machine.floor_s(lm, self.dtype, n_clips, n_tokens, limits)
        self._say(
            f"step B={n_clips} T={n_tokens}: ours {seconds['ours_s'] * 1e3:.1f} ms, peer "
            f"{seconds['peer_s'] * 1e3:.1f} ms, floor {floor * 1e3:.1f} ms"
        )
        ratio = seconds["ours_s"] / floor
        return {
            "n_clips": n_clips,
            "n_tokens": n_tokens,
            **seconds,
            "floor_s": floor,
            "floor_ratio": ratio,
        }

    def batching(self) -> Result:
        """In-flight against static batching in our own engine, and slots against slots."""
        plan = self.plan
        work = {"workload": asdict(plan.workload)}
        with self.side("ours") as ours:
            ours.ask("warm_up", **self._warm_up())
            static = ours.ask("run_static", round=20, **work)
            in_flight = ours.ask("run", round=21, **work)
            slots = {
                str(n): ours.ask("run_full", slots=n, seconds=plan.full_s) for n in plan.slot_counts
            }
        self._say(f"in flight over static {in_flight['speed'] / static['speed']:.2f}")
        return {
            "in_flight_vs_static": in_flight["speed"] / static["speed"],
            "static": static,
            "in_flight": in_flight,
            "slots": slots,
        }

    def _warm_up(self) -> Result:
        return {"frames": self.plan.warm_up_frames, "longest_s": self.plan.workload.longest_s}

    def _say(self, text: str) -> None:
        log.info("%s %s", self.dtype, text)


def _ratios(way: str, around: list[Result], theirs: Result) -> Result:
    """Ours over theirs, ours being what it was right before and right after."""
    ratios = {}
    for suffix, speed in (("", "speed"), ("_tokens", "token_speed")):
        before, after = around
        ratios[f"vs_{way}{suffix}"] = (before[speed] + after[speed]) / 2 / theirs[speed]
    return ratios


def bench(plan: Plan, start: Start, out: Path, only: tuple[str, ...] = PIECES) -> Result:
    """Measures and writes; what a file that is there holds of other pieces stays."""
    found: Result = json.loads(out.read_text()) if out.exists() else {}
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = checkpoint(plan.shape, out.parent)
    for dtype in plan.dtypes:
        for piece in only:
            began, load = time.time(), os.getloadavg()[0]
            log.info("%s %s begins", dtype, piece)
            result = getattr(Bench(plan, start, folder, dtype), piece)()
            found.setdefault(dtype, {}).update(result)
            run = found.setdefault("run", {"machine": {}, "pieces": {}})
            run |= {"plan": asdict(plan), "command": "make bench"}
            run["machine"] = result.get("machine", run["machine"])
            run["pieces"][f"{dtype} {piece}"] = {
                "began": began,
                "seconds": time.time() - began,
                "load_before": load,  # a quiet machine has almost none
            }
            out.write_text(json.dumps(found, indent=1) + "\n")
    return found


def main(argv: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.engine")
    parser.add_argument("--dtype", action="append", choices=("fp32", "bf16"))
    parser.add_argument("--only", action="append", choices=PIECES)
    parser.add_argument("--shape", default="small", choices=sorted(SHAPES))
    parser.add_argument("--out", type=Path, default=OUT / "engine.json")
    given = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    plan = Plan(shape=given.shape)
    if given.dtype:
        plan = Plan(shape=given.shape, dtypes=tuple(given.dtype))
    if not (given.dtype or given.only):
        given.out.unlink(missing_ok=True)  # a whole run starts from nothing
    bench(plan, partial(Process), given.out, tuple(given.only or PIECES))


if __name__ == "__main__":
    main(sys.argv[1:])
