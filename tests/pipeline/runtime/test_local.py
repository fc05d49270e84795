"""A job in threads of this process: without Ray, with the same endings."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline import JobConfig, ledger, run
from pipeline.cli.errors import exit_code_of
from pipeline.ledger.attempts import ActorIdentity, AttemptLog
from pipeline.replica import actor
from pipeline.replica.messages import ReplicaSettings
from pipeline.runtime.local import in_blocks
from pipeline.storage import open_storage
from tests.integration.jobs import (
    TINY,
    Cli,
    clips,
    ids_and_takes,
    problems,
    run_here,
    wait_until,
    write_manifest,
)
from tests.pipeline.outputs import committed_ids
from tests.reliability.outcomes import Outcome, fault


def rows(n: int, duration_s: float = 0.1) -> list[dict[str, object]]:
    return [{"id": f"r{i:02d}", "prompt": f"song {i}", "duration_s": duration_s} for i in range(n)]


def short_then_long(n_short: int, n_long: int, long_s: float) -> list[dict[str, object]]:
    """Rows of a run that can be met in the middle: once the short clips stand, the long ones take
    their time."""
    return rows(n_short, 0.6) + rows(n_short + n_long, long_s)[n_short:]


def test_blocks_keep_order_and_size_whatever_comes_in() -> None:
    def tables() -> Iterator[pa.Table]:
        for start, stop in ((0, 3), (3, 3), (3, 10), (10, 11)):
            yield pa.table({"n": pa.array(range(start, stop), pa.int64())})

    blocks = [block["n"].to_pylist() for block in in_blocks(tables(), 4)]

    assert blocks == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
    assert list(in_blocks([], 4)) == []


def test_several_replicas_share_the_rows(tmp_path: Path) -> None:
    output = f"file://{tmp_path}/out"
    manifest = write_manifest(tmp_path / "m.parquet", rows(24))

    summary = run_here(manifest, output, replicas=2, block_rows=1, part_clips=2, slots=1)

    assert summary.clips == 24
    assert len(summary.replicas) == 2
    assert len({row["replica"] for row in clips(output)}) == 2
    assert problems(output) == []


def test_threads_of_a_job_end_with_it(tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path / "m.parquet", rows(2))
    run_here(manifest, f"file://{tmp_path}/warm")  # libraries have threads of their own
    before = set(threading.enumerate())

    run_here(manifest, f"file://{tmp_path}/out", replicas=2)

    wait_until(lambda: not {t.name for t in set(threading.enumerate()) - before}, timeout_s=30)


def test_a_job_that_ends_while_a_replica_loads_leaves_no_attempt_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = f"file://{tmp_path}/out"
    manifest = write_manifest(tmp_path / "m.parquet", rows(2))
    begin = actor.begin_attempts

    def begin_late(settings: ReplicaSettings, identity: ActorIdentity) -> AttemptLog:
        time.sleep(2)  # until the drain is over
        return begin(settings, identity)

    monkeypatch.setattr(actor, "begin_attempts", begin_late)

    summary = run_here(manifest, output, max_runtime="1s", drain_s=0.1)

    assert (summary.drained, summary.clips) == ("--max-runtime 1s", 0)
    assert open_storage(output).list("attempts") == []


def test_run_writes_the_report_and_sums_up(tmp_path: Path) -> None:
    table = [*rows(2), {"id": "bad", "prompt": "x", "duration_s": 4000.0}]
    manifest = write_manifest(tmp_path / "m.parquet", table)
    said: list[str] = []
    config = JobConfig.of(
        **(TINY | {"manifest": str(manifest), "output": str(tmp_path / "out"), "runtime": "local"})
    )

    summary = run(config, say=said.append)

    assert said == ["3 rows: 2 clips to make (0.2 s of audio), 0 already done, 1 refused now"]
    assert (summary.clips, summary.failed, summary.dead_letters_standing) == (2, 0, 1)
    assert (summary.exit_code, summary.drained, summary.left) == (3, None, 0)
    assert summary.audio_s == pytest.approx(0.2)
    assert 0 < summary.startup_s < summary.tally.wall_s
    assert summary.clips_uri == f"file://{tmp_path}/out/clips"
    assert "<audio" in (tmp_path / "out" / "report.html").read_text()

    tolerant = config.with_flags(tolerate_dead_letters=True)
    assert run(tolerant).exit_code == 0


@fault("data/manifest", "the manifest is replaced", "after the scan; the same command again")
def test_a_manifest_that_is_damaged_ends_the_job_with_its_own_error(
    tmp_path: Path, outcome: Outcome
) -> None:
    """What the reading thread meets is raised by `run`; here the file changes after the scan."""
    path = write_manifest(tmp_path / "m.parquet", rows(3))

    def replace_it(text: str) -> None:
        write_manifest(path, rows(2))

    config = JobConfig.of(
        **(TINY | {"manifest": str(path), "output": str(tmp_path / "out"), "runtime": "local"})
    )
    with pytest.raises(ValueError, match="was replaced while it was being read") as caught:
        run(config, say=replace_it)
    (record,) = ledger.read_runs(open_storage(str(tmp_path / "out")))
    assert record["state"] == "failed"
    ended = exit_code_of(caught.value)
    assert ended is not None
    outcome.told("m.parquet: was replaced while it was being read", ended[1])
    exits = [ended[0], run(config).exit_code]
    outcome.ended(str(tmp_path / "out"), ["r00", "r01"], exits=exits)


@fault("process/local-killed", "kill -9 of a run without Ray", "in mid-run; the same command again")
def test_kill_of_a_local_run_and_the_next_one_goes_on(
    tmp_path: Path, cli: Cli, outcome: Outcome
) -> None:
    output, whole = f"file://{tmp_path}/out", f"file://{tmp_path}/whole"
    manifest = write_manifest(tmp_path / "m.parquet", short_then_long(4, 6, 2.0))
    storage = open_storage(output)
    running = cli.start(*cli.job("run", manifest, output, local=True, lease_ttl_s=3.0))
    wait_until(lambda: len(committed_ids(storage)) >= 4)
    running.kill()
    running.wait()
    before = {info.path: info.mtime for info in ledger.list_parts(storage)}
    n_committed = len(committed_ids(storage))
    assert 4 <= n_committed < 10

    again = run_here(manifest, output, lease_ttl_s=3.0)
    run_here(manifest, whole)

    assert again.clips == 10 - n_committed
    parts = {info.path: info.mtime for info in ledger.list_parts(storage)}
    assert before.items() <= parts.items(), "what stood was left alone"
    hashes = [{row["clip_id"]: row["audio_sha256"] for row in clips(at)} for at in (output, whole)]
    assert hashes[0] == hashes[1]
    admitted = len(cli.admissions()) + again.clips
    outcome.ended(
        output, [f"r{i:02d}" for i in range(10)], exits=["killed", again.exit_code],
        admitted=admitted, redone_at_most=6,
    )  # fmt: skip


@pytest.mark.long
@fault("process/sigterm", "SIGTERM to the driver", "in mid-run; the same command again")
def test_sigterm_drains_a_local_run_and_the_next_one_goes_on(
    tmp_path: Path, cli: Cli, outcome: Outcome
) -> None:
    output, manifest = (
        f"file://{tmp_path}/out",
        write_manifest(tmp_path / "m.parquet", short_then_long(4, 8, 6.0)),
    )
    storage = open_storage(output)
    running = cli.start(*cli.job("run", manifest, output, local=True, verbose=True))
    wait_until(lambda: len(committed_ids(storage)) >= 4)
    os.kill(running.pid, signal.SIGTERM)

    assert running.wait(timeout=60) == 5, cli.said(running)
    assert "draining (SIGTERM" in cli.said(running)
    assert " ready on cpu" in cli.said(running), "a log line, which --verbose shows"
    n_drained = len(committed_ids(storage))
    assert f"{n_drained} of 12 clips made" in cli.said(running)
    assert 4 <= n_drained < 12
    (record,) = ledger.read_runs(storage)
    assert (record["state"], record["done"]) == ("drained", n_drained)

    again = run_here(manifest, output)
    assert again.clips == 12 - n_drained
    outcome.told("drained (SIGTERM): …; the same command goes on from there", cli.said(running))
    begun = cli.said(running).count("admitted run=") + outcome.admissions.n
    wanted = [f"r{i:02d}" for i in range(12)]
    outcome.ended(output, wanted, exits=[5, again.exit_code], admitted=begun)
    assert ids_and_takes(output) == [(f"r{i:02d}", 0) for i in range(12)]
    assert problems(output) == []


READY = """
import sys
from pipeline import JobConfig, run
summary = run(JobConfig.of(manifest=sys.argv[1], output=sys.argv[2], model="tiny", runtime="local"))
slow = {"ray", "transformers.modeling_utils", "torch._dynamo", "torch.distributed.tensor", "sympy"}
print(summary.clips, summary.startup_s, *sorted(slow & sys.modules.keys()))
"""


@pytest.mark.slow
def test_a_local_run_loads_nothing_that_is_slow_to_import(tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path / "m.parquet", rows(1))
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", READY, str(manifest), str(tmp_path / "out")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    n_clips, startup_s, *slow = done.stdout.split()

    assert (n_clips, slow) == ("1", [])
    assert 0 < float(startup_s) < time.monotonic() - began
