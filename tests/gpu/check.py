"""`python3 -m tests.gpu.check --out DIR`: all checks, JSON and a table, within 8 minutes.

A check runs in a process beside this one. One that fails is noted, and the next begins; one that
breaks the device or hangs takes its process along, and the next begins in a new one. The exit code
is 0 where nothing failed.

    python3 -m tests.gpu.check --out DIR [--device cuda:1] [--only NAME ...]
    python3 -m tests.gpu.check --out DIR --device cpu --tiny    # the same script without a GPU
"""

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.gpu.case import Outcome

LIMIT_S = 480.0
HUNG = 3.0  # times its budget
START_S = 120.0  # that a process has to load torch and to find the device

Serve = Callable[[Connection, str, bool], None]


def serve(pipe: Connection, device: str, tiny: bool) -> None:
    """The other end of `Worker`: a check's name comes in, its outcome goes out, as a dict; ends
    after an error that leaves the device broken."""
    import gc

    import torch

    from musicgen.engine.cuda import use_repeatable_numerics
    from musicgen.engine.device_errors import is_broken_cuda
    from tests.gpu.case import Context, outcome_of
    from tests.gpu.checks import all_checks
    from tests.gpu.machine import describe

    context, checks = Context(torch.device(device), tiny), all_checks()
    if context.on_cuda:
        torch.cuda.set_device(context.device)
        use_repeatable_numerics()
    elif tiny:
        torch.set_num_threads(1)
    while True:
        try:
            asked = pipe.recv()
        except EOFError:
            return
        if asked == "describe":
            budgets = {name: check.budget_s for name, check in checks.items()}
            pipe.send((describe(context), budgets))
            continue
        outcome = outcome_of(checks[asked], context)
        gc.collect()
        if context.on_cuda and not is_broken_cuda(RuntimeError(outcome.message)):
            torch.cuda.empty_cache()
        pipe.send(asdict(outcome))
        if context.on_cuda and is_broken_cuda(RuntimeError(outcome.message)):
            return


class Worker:
    """The process that runs checks.

    Args:
        device: Where they run.
        tiny: Whether models are tiny.
        serve: What the process does.

    Attributes:
        ended: Whether it was ended.
    """

    def __init__(self, device: str, *, tiny: bool, serve: Serve) -> None:
        spawning = multiprocessing.get_context("spawn")
        self._pipe, other = spawning.Pipe()
        self._process = spawning.Process(target=serve, args=(other, device, tiny), daemon=True)
        self._process.start()
        other.close()
        self.ended = False

    def ask(self, question: str, timeout_s: float) -> Any:
        """The answer to a question.

        Raises:
            TimeoutError: None came in time.
            EOFError: The process died.
        """
        self._pipe.send(question)
        if not self._pipe.poll(timeout_s):
            raise TimeoutError(f"no answer within {timeout_s:.0f} s")
        return self._pipe.recv()

    def end(self) -> None:
        """End the process."""
        self.ended = True
        self._pipe.close()
        self._process.kill()
        self._process.join()


def run(
    device: str, *, tiny: bool, only: list[str], limit_s: float, serve: Serve = serve
) -> Iterator[dict[str, Any]]:
    """First what the machine is, then the outcome of each check."""
    ends_at = time.monotonic() + limit_s
    worker = Worker(device, tiny=tiny, serve=serve)
    try:
        machine, budgets = worker.ask("describe", START_S)
        yield machine
        for name in [name for name in budgets if not only or name in only]:
            left_s = ends_at - time.monotonic()
            if left_s < min(budgets[name], 5):  # too little to find anything out
                yield _failed(name, f"the {limit_s:.0f} s of the whole run were over")
                continue
            try:
                if worker.ended:
                    worker = Worker(device, tiny=tiny, serve=serve)
                    worker.ask("describe", START_S)
                yield worker.ask(name, min(HUNG * budgets[name], left_s + 5))
            except (TimeoutError, EOFError, OSError) as error:
                worker.end()
                yield _failed(name, str(error) or "the process died")
    finally:
        worker.end()


def _failed(name: str, why: str) -> dict[str, Any]:
    return asdict(Outcome(name, "FAIL", 0.0, why))


def table(outcomes: list[dict[str, Any]]) -> str:
    """A line per check: verdict, seconds, name, and what is wrong."""
    lines = []
    for each in outcomes:
        text = each["message"].strip().splitlines()
        said = f"  {text[0][:150]}" if text else ""
        lines.append(f"{each['verdict']}  {each['seconds']:6.1f} s  {each['name']}{said}")
    counts = {v: sum(o["verdict"] == v for o in outcomes) for v in ("PASS", "FAIL", "SKIP")}
    return "\n".join([*lines, ", ".join(f"{n} {v}" for v, n in counts.items())])


def main(argv: list[str]) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python3 -m tests.gpu.check")
    parser.add_argument("--out", type=Path, required=True, help="folder for gpu-check.json")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="try the script, measure nothing")
    parser.add_argument("--only", action="append", default=[], metavar="NAME")
    parser.add_argument("--limit-s", type=float, default=LIMIT_S)
    given = parser.parse_args(argv)
    given.out.mkdir(parents=True, exist_ok=True)
    path, began = given.out / "gpu-check.json", time.time()
    results = run(given.device, tiny=given.tiny, only=given.only, limit_s=given.limit_s)
    machine = next(results)
    outcomes: list[dict[str, Any]] = []
    for outcome in results:
        outcomes.append(outcome)
        print(table([outcome]).splitlines()[0], flush=True)  # noqa: T201
        found = {
            "machine": machine,
            "tiny": given.tiny,
            "began": began,
            "seconds": time.time() - began,
            "outcomes": outcomes,
        }
        path.write_text(json.dumps(found, indent=1) + "\n")
    print(table(outcomes).splitlines()[-1], f"in {time.time() - began:.0f} s; {path}")  # noqa: T201
    return int(any(outcome["verdict"] == "FAIL" for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
