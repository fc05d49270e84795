"""What long use leaves behind: 30 runs on one output, and one run of 5 000 tiny clips, on Ray.

Memory of the driver and of the replica is read along the way; `grown` says how far it rose above
its value after the first tenth. What must not be left: actors, files below `attempts/`, hidden
temporary files, threads.

    python -m tests.bench.soak [--runs 30] [--clips 5000] [--out out/bench/soak.json]
"""

import argparse
import json
import logging
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import job
from pipeline.config_file import load_config
from pipeline.ledger.verify import verify
from pipeline.storage import open_storage
from tests.bench.processes import below, running

OUT = Path("out/bench/soak.json")
CLIP_S = 0.1
TENTH = 0.1
SAMPLE_S = 1.0
SETTLE_S = 60.0  # Ray ends the actors of a run a moment after it
ACTORS = ("MapBatches(Replica)", "MapBatches(Prepare)")
FLAGS = {"model": "tiny", "device": "cpu", "report_sample": 0, "duration_s": CLIP_S}
log = logging.getLogger("bench")


@dataclass
class Memory:
    """Readings of resident memory.

    Attributes:
        shares: How far the work was at each, from 0 to 1.
        rss_bytes: What was read.
    """

    shares: list[float] = field(default_factory=list)
    rss_bytes: list[int] = field(default_factory=list)

    def add(self, share: float, rss_bytes: int) -> None:
        """Takes a reading."""
        self.shares.append(share)
        self.rss_bytes.append(rss_bytes)

    @property
    def grown(self) -> float:
        """How far the median of the last fifth lies above that of the second tenth."""
        shares, rss = np.array(self.shares), np.array(self.rss_bytes)
        early = rss[(shares > TENTH) & (shares <= 2 * TENTH)]
        late = rss[shares >= 1 - 2 * TENTH]
        return float(np.median(late) / np.median(early) - 1) if len(early) and len(late) else 0.0

    def as_figures(self) -> dict[str, float]:
        """For the file of results."""
        return {
            "grown": self.grown,
            "first_mb": self.rss_bytes[0] / 1e6,
            "last_mb": self.rss_bytes[-1] / 1e6,
            "most_mb": max(self.rss_bytes) / 1e6,
        }


def runs_in_a_row(n_runs: int, folder: Path, clips_per_run: int = 4) -> dict[str, Any]:
    """Runs on one output, each with more rows than the one before."""
    memory, threads = Memory(), list[int]()
    for number in range(1, n_runs + 1):
        manifest = write_manifest(folder / "runs.parquet", number * clips_per_run)
        summary = make(manifest, folder / "runs")
        assert (summary.clips, summary.exit_code) == (clips_per_run, 0)
        memory.add(number / n_runs, own_rss_bytes())
        threads.append(threading.active_count())
    left = what_is_left(folder / "runs")
    report = verify(open_storage(str(folder / "runs")))
    assert report.ok, report.problems
    assert report.n_clips == n_runs * clips_per_run
    return {
        "runs": n_runs,
        "driver": memory.as_figures(),
        "threads": [threads[0], threads[-1]],
        **left,
    }


def many_clips(n_clips: int, folder: Path, **settings: Any) -> dict[str, Any]:
    """One run of tiny clips."""
    manifest = write_manifest(folder / "clips.parquet", n_clips)
    driver, replica, over = Memory(), Memory(), threading.Event()
    output = folder / "clips"

    def watch() -> None:
        while not over.wait(SAMPLE_S):
            share = len([*output.glob("audio/*/*")]) / n_clips
            driver.add(share, own_rss_bytes())
            for process in below(os.getpid()):
                if ACTORS[0] in process.command and share > 0:
                    replica.add(share, process.rss_bytes)

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    began = time.monotonic()
    try:
        summary = make(manifest, output, **settings)
    finally:
        over.set()
        watching.join()
    assert (summary.clips, summary.exit_code) == (n_clips, 0)
    return {
        "clips": n_clips,
        "seconds": time.monotonic() - began,
        "driver": driver.as_figures(),
        "replica": replica.as_figures() if replica.shares else {},
        **what_is_left(output),
    }


def make(manifest: Path, output: Path, **settings: Any) -> job.RunSummary:
    """One run."""
    flags = FLAGS | {"manifest": str(manifest), "output": str(output)} | settings
    return job.run(load_config(None, flags))


def write_manifest(path: Path, n_rows: int) -> Path:
    """Rows that a longer manifest has too."""
    rows = range(n_rows)
    table = {"id": [f"row{i:05d}" for i in rows], "prompt": [f"song {i}" for i in rows]}
    pq.write_table(pa.table(table), path)
    return path


def what_is_left(output: Path) -> dict[str, int]:
    """What a run should have tidied up, after a moment for Ray to do it."""
    deadline = time.monotonic() + SETTLE_S
    while actors() and time.monotonic() < deadline:
        time.sleep(0.5)
    return {
        "actors_left": len(actors()),
        "attempt_records_left": len([*output.glob("attempts/*/*")]),
        "hidden_files_left": len([path for path in output.rglob(".*") if path.is_file()]),
    }


def actors() -> list[str]:
    """Commands of the actors of this process's jobs that still run."""
    return [
        process.command
        for process in below(os.getpid())
        if any(kind in process.command for kind in ACTORS)
    ]


def own_rss_bytes() -> int:
    """Resident memory of this process."""
    return running()[os.getpid()].rss_bytes


def soak(n_runs: int, n_clips: int) -> dict[str, Any]:
    """Both."""
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    try:
        return {"runs": runs_in_a_row(n_runs, folder), "clips": many_clips(n_clips, folder)}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main(argv: Sequence[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.soak")
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--clips", type=int, default=5_000)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    found = soak(given.runs, given.clips)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(found, indent=1) + "\n")
    log.info("%s", json.dumps(found, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
