"""`make bench-pipeline`: what the job costs around the model; writes `out/bench/pipeline.json`.

`musicgen-batch run` makes 64 clips with 2 replicas and keeps the books itself: `pipeline/timing.py`
says what window, model time, overhead and slot occupancy are. Start-up (Ray, loading the model)
comes before the window and is told apart.

    python -m tests.bench.pipeline [--shape small] [--dtype fp32] [--out FILE]
"""

import argparse
import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import ledger
from pipeline.storage import open_storage
from tests.bench import machine
from tests.bench.shapes import SHAPES, checkpoint
from tests.bench.workload import Workload

OUT = Path("out/bench")
CLIPS = Workload(64, 1.0, 6.0)
MODEL_S = 120.0  # with less model time than this, what is measured is chance
log = logging.getLogger("bench")


@dataclass(frozen=True)
class Plan:
    """What is run.

    Attributes:
        shape: Of the model.
        dtype: What it computes in.
        workload: The clips.
        replicas: Side by side on this machine.
        threads: Of each.
        slots: Of each.
        part_clips: How many clips a commit waits for.
        block_rows: Rows per Ray task: the fewer, the more evenly the last rows are shared out.
    """

    shape: str = "small"
    dtype: str = "fp32"
    workload: Workload = CLIPS
    replicas: int = 2
    threads: int = 1
    slots: int = 4
    part_clips: int = 4
    block_rows: int = 1

    def arguments(self, folder: Path) -> list[str]:
        """Of `musicgen-batch`, which writes below `folder`."""
        settings = {
            "manifest": folder / "pipeline.parquet",
            "output": folder / "pipeline",
            "model": checkpoint(self.shape, folder),
            "dtype": self.dtype,
            "device": "cpu",
            "replicas": self.replicas,
            "threads_per_replica": self.threads,
            "slots": self.slots,
            "part_clips": self.part_clips,
            "block_rows": self.block_rows,
        }
        flags = [[f"--{name.replace('_', '-')}", str(value)] for name, value in settings.items()]
        return ["run", *(part for flag in flags for part in flag)]


def write_manifest(plan: Plan, folder: Path) -> None:
    """The workload as a manifest, and no output of an earlier run."""
    shutil.rmtree(folder / "pipeline", ignore_errors=True)
    rows = [asdict(clip) | {"id": f"clip{i}"} for i, clip in enumerate(plan.workload.clips())]
    pq.write_table(pa.Table.from_pylist(rows), folder / "pipeline.parquet")


def bench(plan: Plan, out: Path, musicgen_batch: Callable[[list[str]], None]) -> dict[str, Any]:
    """Runs the job and writes what its record says."""
    folder = out.parent.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    write_manifest(plan, folder)
    arguments = plan.arguments(folder)
    musicgen_batch(arguments)
    record = ledger.read_runs(open_storage(str(folder / "pipeline")))[-1]
    if record["state"] != "done" or record["done"] != plan.workload.n_clips:
        raise RuntimeError(f"the run ended {record['state']} with {record['done']} clips")
    timing = record["timing"]
    found = timing | {
        "clips": record["done"],
        "audio_s": record["audio_seconds"],
        "audio_s_per_s": record["audio_seconds"] / timing["window_s"],
        "run": {
            "machine": machine.describe(),
            "plan": asdict(plan),
            "command": "make bench-pipeline",
            "arguments": [part.replace(f"{folder}/", "out/bench/") for part in arguments],
        },
    }
    out.write_text(json.dumps(found, indent=1) + "\n")
    if timing["model_s"] < MODEL_S:
        log.warning("model time is only %.0f s: choose longer clips", timing["model_s"])
    return found


def in_a_process(arguments: list[str]) -> None:
    """`musicgen-batch` as people start it."""
    subprocess.run([sys.executable, "-m", "pipeline.cli", *arguments], check=True)


def main(argv: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.pipeline")
    parser.add_argument("--shape", default="small", choices=sorted(SHAPES))
    parser.add_argument("--dtype", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--out", type=Path, default=OUT / "pipeline.json")
    given = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    found = bench(Plan(shape=given.shape, dtype=given.dtype), given.out, in_a_process)
    log.info(
        "overhead %.3f, slot occupancy %.3f, start-up %.1f s, window %.1f s, model %.1f s",
        *(
            found[name]
            for name in ("overhead", "slot_occupancy", "startup_s", "window_s", "model_s")
        ),
    )


if __name__ == "__main__":
    main(sys.argv[1:])
