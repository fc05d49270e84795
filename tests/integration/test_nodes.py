"""Two worker nodes, one of them killed without grace in mid-run: every clip once, same bytes."""

import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipeline.storage import open_storage
from tests.integration.jobs import (
    Cli,
    admitted_on_ray,
    clips,
    problems,
    wait_until,
    write_manifest,
)
from tests.pipeline.outputs import committed_ids
from tests.reliability.outcomes import Outcome, fault

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

N_ROWS = 60
SETTINGS = {
    "replicas": 2, "slots": 2, "part_clips": 4, "block_rows": 4, "replica_resource": "slot=1",
    "lease_ttl_s": 3.0,
}  # fmt: skip


@pytest.fixture
def cluster() -> Iterator["Cluster"]:
    """A head for the driver and two nodes with room for one replica each."""
    from ray.cluster_utils import Cluster

    folder = tempfile.mkdtemp(prefix="mg")
    patch = pytest.MonkeyPatch()
    patch.setenv("RAY_AUTH_MODE", "disabled")
    patch.setenv("RAY_raylet_start_wait_time_s", "120")
    plain = {"object_store_memory": 100_000_000, "include_dashboard": False}
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 3, "temp_dir": folder, **plain}
    )
    yield cluster
    cluster.shutdown()
    patch.undo()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.long
@pytest.mark.timeout(600)
@fault("process/node-killed", "the death of one of two nodes", "in mid-run; nothing replaces it")
def test_the_death_of_a_node(
    cluster: "Cluster", tmp_path: Path, cli: Cli, outcome: Outcome
) -> None:
    """No node takes its place: the survivor makes the rest. The bytes are those of one replica."""
    plain = {"object_store_memory": 100_000_000}
    nodes = [cluster.add_node(num_cpus=1, resources={"slot": 1}, **plain) for _ in range(2)]
    rows = [{"id": f"r{i:02d}", "prompt": f"song {i}", "duration_s": 5.0} for i in range(N_ROWS)]
    manifest = write_manifest(tmp_path / "m.parquet", rows)
    output, quiet = f"file://{tmp_path}/out", f"file://{tmp_path}/quiet"

    running = cli.start(*cli.job("run", manifest, output, **SETTINGS), address=cluster.address)
    wait_until(lambda: len({row["replica"] for row in clips(output)}) == 2)
    cluster.remove_node(nodes[1], allow_graceful=False)

    assert n_clips(output) < N_ROWS, "it must die in the middle"
    assert running.wait(timeout=240) == 0, cli.said(running)
    outcome.ended(
        output, [str(row["id"]) for row in rows], exits=[0],
        admitted=admitted_on_ray(output, cluster.head_node.get_session_dir_path()),
        redone_at_most=SETTINGS["part_clips"] + SETTINGS["slots"],
    )  # fmt: skip
    alone = SETTINGS | {"replicas": 1}
    undisturbed = cli.start(*cli.job("run", manifest, quiet, **alone), address=cluster.address)
    assert undisturbed.wait(timeout=240) == 0, cli.said(undisturbed)
    assert sorted(row["id"] for row in clips(output)) == sorted(str(row["id"]) for row in rows)
    assert hashes(output) == hashes(quiet)
    assert problems(output) == []


def n_clips(output: str) -> int:
    return len(committed_ids(open_storage(output)))


def hashes(output: str) -> dict[str, str]:
    return {row["clip_id"]: row["audio_sha256"] for row in clips(output)}


@pytest.mark.long
@fault("process/node-drained", "a node goes away with notice (spot)", "in mid-run")
def test_a_node_that_is_drained(
    cluster: "Cluster", tmp_path: Path, cli: Cli, outcome: Outcome
) -> None:
    """As before a spot node goes away: its replica commits what is finished and leaves; its rows
    are made elsewhere, nobody is suspected, and the run ends well."""
    import ray

    plain = {"object_store_memory": 100_000_000}
    nodes = [cluster.add_node(num_cpus=1, resources={"slot": 1}, **plain) for _ in range(2)]
    rows = [{"id": f"r{i:02d}", "prompt": f"song {i}", "duration_s": 5.0} for i in range(N_ROWS)]
    manifest = write_manifest(tmp_path / "m.parquet", rows)
    output = f"file://{tmp_path}/out"

    running = cli.start(*cli.job("run", manifest, output, **SETTINGS), address=cluster.address)
    wait_until(lambda: len({row["replica"] for row in clips(output)}) == 2)
    gcs = ray._raylet.GcsClient(address=cluster.address)
    preemption, in_a_minute_ms = 2, int((time.time() + 60) * 1000)
    assert gcs.drain_node(nodes[1].node_id, preemption, "spot", in_a_minute_ms)[0]
    storage = open_storage(output)
    wait_until(
        lambda: any(b'"ended": "node"' in storage.get(o.path) for o in storage.list("attempts"))
    )
    cluster.remove_node(nodes[1], allow_graceful=False)

    assert running.wait(timeout=240) == 0, cli.said(running)
    assert sorted(row["id"] for row in clips(output)) == sorted(str(row["id"]) for row in rows)
    assert problems(output) == []
    outcome.ended(
        output, [str(row["id"]) for row in rows], exits=[0],
        admitted=admitted_on_ray(output, cluster.head_node.get_session_dir_path()),
        redone_at_most=SETTINGS["slots"],
    )  # fmt: skip
