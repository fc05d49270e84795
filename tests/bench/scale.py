"""What planning costs as manifests grow: `make bench-scale` writes out/bench/scale.json.

Each figure is of a process of its own, over a manifest and the parts of a run that are written
first and stay in out/bench/scale-ROWS. 99.9 % of the clips are done, in parts of 256; `unchanged`
is the second run after the rest was made. Memory is what all processes hold at their fullest
moment, pages that several have in common counted once (PSS), and the RSS of the driver alone.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from pipeline.planning.pool import LocalPool
from pipeline.planning.survey import survey
from pipeline.storage import open_storage
from tests.bench.processes import proc_kb
from tests.bench.scale_output import (
    remove_rest,
    spec_of,
    write_manifest,
    write_parts,
    write_rest,
)

OUT = Path("out/bench")
ROWS = (1_000_000, 10_000_000)
WORKERS = (1, 2)
LOOK_S = 0.5  # between readings of the memory, which take milliseconds of the driver each


def main() -> None:
    """Writes the outputs that are missing, measures, and updates out/bench/scale.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    parser.add_argument("--one", type=Path, help="measure one plan of this folder, and print it")
    parser.add_argument("--no-ledger", dest="ledger", action="store_false", help="planning alone")
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(plan_once(given.one, given.workers)))  # noqa: T201
        return
    from tests.bench import machine  # loads torch, which would count as memory of the driver

    path = OUT / "scale.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    found |= {"machine": machine.describe(), "date": time.strftime("%Y-%m-%d")}
    for n_rows in given.rows:
        found |= measure(n_rows)
        path.write_text(json.dumps(found, indent=1))
    if given.ledger:
        from tests.bench import scale_ledger  # loads Ray

        found |= scale_ledger.measure()
        path.write_text(json.dumps(found, indent=1))
    print(json.dumps(found, indent=1))  # noqa: T201


def measure(n_rows: int) -> dict[str, Any]:
    """The figures for one size."""
    folder = OUT / f"scale-{n_rows}"
    if not (folder / "done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_manifest(folder / "m.parquet", n_rows)
        write_parts(folder / "out", folder / "m.parquet", 2)
        (folder / "done").touch()
    name, found = f"plan_{n_rows:.0e}".replace("e+0", "e"), dict[str, Any]()
    remove_rest(folder / "out")
    for workers in WORKERS:
        shutil.rmtree(folder / "out" / "cache", ignore_errors=True)
        one = _in_a_process(folder, workers)
        found |= {f"{name}_workers_{workers}": one}
    found |= {f"{name}_s": one["seconds"], f"{name}_rss_mb": one["rss_mb"]}
    found |= {f"{name}_driver_rss_mb": one["driver_rss_mb"]}
    found[f"{name}_with_kept_parts_s"] = _in_a_process(folder, workers)["seconds"]
    write_rest(folder / "out", folder / "m.parquet")
    _in_a_process(folder, workers)
    unchanged = _in_a_process(folder, workers)
    found |= {f"{name}_unchanged": unchanged, f"{name}_unchanged_s": unchanged["seconds"]}
    return found


def _in_a_process(folder: Path, workers: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.bench.scale", "--one", str(folder)]
    done = subprocess.run(
        [*command, "--workers", str(workers)], check=True, stdout=subprocess.PIPE, text=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    sys.stderr.write(f"{folder.name}, {workers} workers: {found}\n")
    return found


def plan_once(folder: Path, workers: int) -> dict[str, Any]:
    """Plans as a run does, and keeps in the output what a run keeps."""
    storage = open_storage(str(folder.absolute() / "out"))
    started = time.monotonic()
    with LocalPool(workers) as pool:
        memory = Memory(pool)
        memory.start()
        spec = spec_of(folder.absolute() / "m.parquet")
        found = survey(storage, spec, pool, keep=True)
        seconds = time.monotonic() - started
        memory.is_over.set()
        memory.join()
    spent = os.times()
    return {
        "seconds": round(seconds, 2),
        "cpu_s": round(spent.user + spent.system, 2),
        "workers_cpu_s": round(spent.children_user + spent.children_system, 2),
        "rss_mb": memory.most_mb,
        "driver_rss_mb": proc_kb(Path("/proc/self/status"), "VmHWM:") * 1024 // 10**6,
        "outcomes": dict(found.plan.outcomes),
        "row_groups_with_work": len(found.plan.row_groups),
    }


class Memory(threading.Thread):
    """Looks at what this process and those of a pool hold."""

    def __init__(self, pool: LocalPool) -> None:
        super().__init__(daemon=True)
        self._pool, self.is_over = pool, threading.Event()
        self.most_mb = 0

    def run(self) -> None:
        """Looks until `is_over` is set."""
        while not self.is_over.wait(LOOK_S):
            pids = [os.getpid(), *self._pool.pids]
            self.most_mb = max(self.most_mb, sum(map(_pss_mb, pids)))


def _pss_mb(pid: int) -> int:
    try:
        return proc_kb(Path(f"/proc/{pid}/smaps_rollup"), "Pss:") * 1024 // 10**6
    except OSError:  # it has just ended
        return 0


if __name__ == "__main__":
    main()
