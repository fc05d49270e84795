"""Clusters that have little, that are busy, or that grow: a job starts, or says why not."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.clusters import (
    autoscaling_cluster,
    environment,
    plain_cluster,
)
from tests.integration.jobs import Cli, clips, problems, wait_until, write_manifest

ROWS = [{"id": f"r{i:02d}", "prompt": f"song {i}", "duration_s": 0.2} for i in range(12)]
# A driver of somebody else's, which holds CPUs until its standard input is closed.
HOLDER = """
import sys, ray
ray.init(log_to_driver=False)

@ray.remote(num_cpus=float(sys.argv[1]))
class Holder:
    def ready(self): return True

holder = Holder.remote()
ray.get(holder.ready.remote())
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def two_cpus() -> Iterator[str]:
    with plain_cluster("--num-cpus=2") as address:
        yield address


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return write_manifest(tmp_path / "m.parquet", ROWS)


@pytest.mark.long
def test_12_rows_on_2_cpus(two_cpus: str, manifest: Path, tmp_path: Path, cli: Cli) -> None:
    output = f"file://{tmp_path}/out"

    running = cli.start(*cli.job("run", manifest, output), address=two_cpus)

    assert running.wait(timeout=240) == 0, cli.said(running)
    assert sorted(row["id"] for row in clips(output)) == [row["id"] for row in ROWS]
    assert problems(output) == []
    assert "no place" not in cli.said(running)
    assert "waits" not in cli.said(running)


@pytest.mark.long
def test_while_another_job_holds_the_cpus(
    two_cpus: str, manifest: Path, tmp_path: Path, cli: Cli
) -> None:
    """It says so at once and again when actors have waited, and goes on when the CPUs are free."""
    output = f"file://{tmp_path}/out"
    other = subprocess.Popen(
        [sys.executable, "-c", HOLDER, "1.5"],
        env=environment(tmp_path) | {"RAY_ADDRESS": two_cpus},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    try:
        running = cli.start(*cli.job("run", manifest, output), address=two_cpus)
        wait_until(lambda: "this job waits until others" in cli.said(running))
        began = time.monotonic()
        wait_until(lambda: "no place for 1 replica" in cli.said(running))
        assert time.monotonic() - began < 60, "30 s on an idle machine"
        assert running.poll() is None
    finally:
        other.communicate()

    assert running.wait(timeout=240) == 0, cli.said(running)
    said = cli.said(running)
    assert "There is: 1 node with 0.5 CPU free (in all 1 node with 2 CPUs)" in said
    assert said.count("no place for") == 1
    assert "everything that waited has a place now" in said
    assert len(clips(output)) == len(ROWS)


@pytest.mark.long
def test_a_cluster_that_never_holds_the_job_is_refused(
    manifest: Path, tmp_path: Path, cli: Cli
) -> None:
    output = f"file://{tmp_path}/out"
    with plain_cluster("--num-cpus=1") as address:
        refused = cli.start(*cli.job("run", manifest, output), address=address)
        assert refused.wait(timeout=120) == 2, cli.said(refused)
        said = cli.said(refused)
        assert "this cluster can't hold the job" in said
        assert "There is: 1 node with 1 CPU." in said
        assert "What helps: --cpus-per-replica 0.25, or add nodes" in said

        mended = cli.job("run", manifest, output, cpus_per_replica=0.25)
        running = cli.start(*mended, address=address)
        assert running.wait(timeout=240) == 0, cli.said(running)
    assert len(clips(output)) == len(ROWS)


@pytest.mark.long
def test_nodes_that_an_autoscaler_starts_are_waited_for(
    manifest: Path, tmp_path: Path, cli: Cli
) -> None:
    output = f"file://{tmp_path}/out"
    worker = {"CPU": 4.0, "slot": 1.0}
    with autoscaling_cluster(tmp_path, head_cpus=1, worker=worker) as address:
        job = cli.job("run", manifest, output, replica_resource="slot=1")
        running = cli.start(*job, address=address)
        assert running.wait(timeout=240) == 0, cli.said(running)
    said = cli.said(running)
    assert "this job waits for nodes" in said
    assert "No node has slot. The autoscaler is starting" in said
    assert len(clips(output)) == len(ROWS)
