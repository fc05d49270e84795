"""`make bench-gpu`: the engine on a CUDA device; writes `out/bench/gpu.json`.

For each shape: whole engine steps with B clips at T tokens, with and without CUDA graphs, beside
transformers' forward and beside the roofline (fp16 weights and caches over the bandwidth of a copy,
both measured here), and the throughput of the first shape against transformers' `generate()`. The
same code runs on a CPU, without graphs; `test_bench` does that with a tiny shape.

    python -m tests.bench.gpu [--shape small ...] [--dtype fp16] [--out FILE]
"""

import argparse
import json
import logging
import os
import sys
import time
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import torch

from tests.bench import engine, machine
from tests.bench.engine import Bench, Result, Start
from tests.bench.shapes import SHAPES, checkpoint
from tests.bench.workers import Process, Side
from tests.bench.workload import Workload

OUT = Path("out/bench")
CLIPS = Workload(96, 4.0, 30.0)
log = logging.getLogger("bench")


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        shapes: Of the model.
        dtype: On both sides.
        device: Where.
        batches: Clips per step.
        lengths: Tokens in the cache.
        repeats: Timed steps per cell.
        threads: Of torch.
        switches: Ways to run the engine, by name.
        workload: Clips for the comparison of whole clips.
        slots: Clips in flight there, and the peer's batch.
        warm_up_frames: Frames of the clips that are not timed.
        limits: Sizes for `machine.limits`.
    """

    shapes: tuple[str, ...] = ("small", "medium", "large")
    dtype: str = "fp16"
    device: str = "cuda"
    batches: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    lengths: tuple[int, ...] = (100, 700, 1400)
    repeats: int = 7
    threads: int = field(default_factory=lambda: os.cpu_count() or 1)
    switches: dict[str, dict[str, bool]] = field(
        default_factory=lambda: {"graphs": {"graphs": True}, "eager": {"graphs": False}}
    )
    workload: Workload = CLIPS
    slots: int = 32
    warm_up_frames: int = 50
    limits: dict[str, int] = field(default_factory=lambda: {"megabytes": 4096, "width": 8192})

    def of_shape(self, shape: str) -> engine.Plan:
        """The same as a plan of the CPU's benchmark."""
        return engine.Plan(
            shape=shape,
            dtypes=(self.dtype,),
            device=self.device,
            threads=self.threads,
            workload=self.workload,
            slots=self.slots,
            warm_up_frames=self.warm_up_frames,
            limits=self.limits,
        )


def bench(plan: Plan, start: Start, out: Path) -> Result:
    """Measures and writes, shape by shape."""
    out.parent.mkdir(parents=True, exist_ok=True)
    found: Result = {"run": {"plan": asdict(plan), "command": "make bench-gpu"}}
    for shape in plan.shapes:
        folder = checkpoint(shape, out.parent)
        sides = Bench(plan.of_shape(shape), start, folder, plan.dtype)
        began = time.time()
        found[shape] = _steps(plan, sides, found["run"])
        if shape == plan.shapes[0]:
            found[shape] |= sides.throughput()
        found[shape]["seconds"] = time.time() - began
        out.write_text(json.dumps(found, indent=1) + "\n")
    return found


def _steps(plan: Plan, sides: Bench, run: Result) -> Result:
    """Step times in seconds; None where memory does not suffice."""
    taken: dict[str, dict[int, Result]] = {}
    one_slot = replace(sides, plan=replace(sides.plan, slots=1))
    with one_slot.side("ours") as ours:
        limits = ours.ask("limits", **plan.limits)
        run["machine"] = ours.ask("describe")
        for name, switches in plan.switches.items():
            taken[name] = {n: step_times(ours, plan, n, **switches) for n in plan.batches}
    with one_slot.side("peer") as peer:
        taken["peer"] = {n: step_times(peer, plan, n) for n in plan.batches}
    cells = []
    for n_clips in plan.batches:
        for n_tokens in plan.lengths:
            times = {name: told[n_clips].get(str(n_tokens)) for name, told in taken.items()}
            cells.append(_cell(sides, n_clips, n_tokens, times, limits))
    return {"limits": limits, "steps": cells}


def step_times(side: Side, plan: Plan, n_clips: int, **switches: bool) -> Result:
    """Step times by length, as far as memory suffices."""
    found: Result = {}
    for n_tokens in plan.lengths:
        try:
            found |= side.ask(
                "steps", n_clips=n_clips, lengths=[n_tokens], repeats=plan.repeats, **switches
            )
        except MemoryError:
            break
    return found


def _cell(sides: Bench, n_clips: int, n_tokens: int, times: Result, limits: Result) -> Result:
    lm = SHAPES[sides.plan.shape].lm
    floor = machine.floor_s(lm, sides.dtype, n_clips, n_tokens, limits)
    known = [taken for name, taken in times.items() if taken and name != "peer"]
    shares = {"roofline": floor / min(known)} if known else {}
    told = {name: f"{taken * 1e3:.2f} ms" if taken else "-" for name, taken in times.items()}
    log.info(
        "%s B=%d T=%d: %s, floor %.2f ms", sides.plan.shape, n_clips, n_tokens, told, floor * 1e3
    )
    return {"n_clips": n_clips, "n_tokens": n_tokens, "floor_s": floor, **shares,
            **{f"{name}_s": taken for name, taken in times.items()}}  # fmt: skip


def main(argv: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.gpu")
    parser.add_argument("--shape", action="append", choices=sorted(SHAPES))
    parser.add_argument("--dtype", default="fp16", choices=("fp16", "bf16", "fp32"))
    parser.add_argument("--out", type=Path, default=OUT / "gpu.json")
    given = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if not torch.cuda.is_available():
        sys.exit("torch sees no CUDA device here; `make bench` measures the CPU")
    plan = Plan(dtype=given.dtype)
    if given.shape:
        plan = replace(plan, shapes=tuple(given.shape))
    bench(plan, partial(Process), given.out)


if __name__ == "__main__":
    main(sys.argv[1:])
