"""What the ledger and the pools cost while a run goes on, for `make bench-scale`.

`measure` gives milliseconds:

- `commit_lookup_ms_1e3`, `commit_lookup_ms_1e6`: what a replica spends per Ray task on finding out
  what is committed already, when the run has that many clips and an earlier process of its actor,
  which made all of them, still publishes now and then.
- `overhead_ms_per_clip`: processor time of all processes of a job of 100 000 clips on Ray (driver,
  Ray's own, prepare pool, replica) between the first admission and the last commit, per clip. Only
  the engine, T5, the codec, loudness and encoding are replaced; the start-up is left out.

    python -m tests.bench.scale_ledger [--clips 100000]
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import job
from pipeline.config_file import load_config
from pipeline.ledger.commits import ActorCommits
from pipeline.ledger.names import part_path
from pipeline.ledger.parts import new_replica_id
from pipeline.ledger.schema import clip_schema, encode_part
from pipeline.storage import Storage, open_storage
from tests.bench.fake_replica import FakeReplica
from tests.bench.processes import processor_time
from tests.pipeline.outputs import clip

RUN = "20260101T000000-abcdef"
PART_CLIPS = 256
BLOCK_ROWS = 8  # clips of a Ray task
TASKS = 1_024  # of which the mean is taken: 32 parts of its own come with them
# As on a GPU, where so many clips a second are made at all that this counts.
SETTINGS = {"slots": 64, "block_rows": 64, "part_clips": PART_CLIPS}
LATE_PARTS = 4  # of the earlier process meanwhile


def measure(n_clips: int = 100_000) -> dict[str, float]:
    """All three figures."""
    return {
        "commit_lookup_ms_1e3": commit_lookup_ms(1_000),
        "commit_lookup_ms_1e6": commit_lookup_ms(1_000_000),
        "overhead_ms_per_clip": overhead(n_clips)["cpu_ms_per_clip"],
    }


# --- looking up what is committed


def commit_lookup_ms(n_clips: int, tasks: int = TASKS) -> float:
    """Mean time of the looks that belong to one Ray task."""
    with _folder() as folder:
        storage, earlier = open_storage(str(folder)), new_replica_id()
        parts = _Parts(storage, earlier)
        for _ in range(-(-n_clips // PART_CLIPS)):
            parts.publish(min(PART_CLIPS, n_clips - parts.n_clips))
        commits = ActorCommits(storage, RUN, (earlier,))
        assert len(commits) == n_clips
        pending: list[str] = []
        spent_s = 0.0
        for number in range(tasks):
            if number % (tasks // LATE_PARTS) == 0:
                parts.publish(PART_CLIPS)
            block = _ids(BLOCK_ROWS)
            began = time.perf_counter()
            commits.look()  # when the task comes
            assert not commits.contains_many(block).any()
            pending += block
            if len(pending) == PART_CLIPS:  # and before each commit
                commits.look()
                assert not commits.contains_many(pending).any()
                commits.add(pending)
                pending = []
            spent_s += time.perf_counter() - began
        assert len(commits) == parts.n_clips + tasks * BLOCK_ROWS
        return spent_s / tasks * 1e3


@dataclass
class _Parts:
    """Publishes parts of one process quickly: the same row again and again, with other ids."""

    storage: Storage
    replica: str
    n_clips: int = 0
    seq: int = 0
    table: pa.Table = field(init=False)

    def __post_init__(self) -> None:
        schema = clip_schema(pa.schema([]), "files")
        self.table = pa.Table.from_pylist([clip("one")] * PART_CLIPS, schema=schema)

    def publish(self, n_clips: int) -> None:
        """The next part."""
        table = self.table.slice(0, n_clips)
        at = table.schema.get_field_index("clip_id")
        ids = pa.array(_ids(n_clips), pa.string())
        table = table.set_column(at, table.schema.field(at), ids)
        data = encode_part(table, table.schema, "token", ())
        self.storage.put(part_path("clips", RUN, self.replica, self.seq), data, sync=False)
        self.seq, self.n_clips = self.seq + 1, self.n_clips + n_clips


def _ids(n: int) -> list[str]:
    data = np.random.default_rng().bytes(16 * n).hex()
    return [data[start : start + 32] for start in range(0, len(data), 32)]


# --- a job without a model


def overhead(n_clips: int, **settings: Any) -> dict[str, float]:
    """Runs a job of so many clips and counts.

    Args:
        settings: Flags of the job, in the place of SETTINGS.
    """
    with _folder() as folder, processor_time() as spent:
        rows = range(n_clips)
        manifest = {
            "id": [f"clip{i:07d}" for i in rows],
            "prompt": [f"song {i}: calm piano over soft strings" for i in rows],
            "duration_s": [1.0] * n_clips,
        }
        pq.write_table(pa.table(manifest), folder / "manifest.parquet", row_group_size=10_000)
        flags = {
            "model": "tiny",
            "device": "cpu",
            "manifest": str(folder / "manifest.parquet"),
            "output": str(folder / "output"),
            "report_sample": 0,
        }
        real, job.Replica = job.Replica, FakeReplica  # type: ignore[misc]
        try:
            summary = job.run(load_config(None, flags | SETTINGS | settings))
        finally:
            job.Replica = real  # type: ignore[misc]
        assert (summary.clips, summary.failed) == (n_clips, 0)
    times = summary.tally.times
    began = times.first_admission
    assert began is not None
    return {
        "cpu_ms_per_clip": spent.between(began, began + times.window_s) / n_clips * 1e3,
        "wall_ms_per_clip": times.window_s / n_clips * 1e3,
        "startup_s": summary.startup_s,
    }


@contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="scale-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main(argv: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scale_ledger")
    parser.add_argument("--clips", type=int, default=100_000)
    sys.stdout.write(json.dumps(measure(parser.parse_args(argv).clips), indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
