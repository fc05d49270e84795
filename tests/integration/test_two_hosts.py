"""Ray on two hosts with an address each: a head without GPUs, a worker with what replicas need. The
worker's host is cut off in mid-run and comes back: each clip stands once."""

import re
import subprocess
import time
from pathlib import Path

import pytest

from tests.integration.clusters import BY_HAND
from tests.integration.hosts import (
    AWAY_S,
    DASHBOARD,
    Host,
    namespaces_work,
    program,
    start_head,
    start_worker,
    two_hosts,
)
from tests.integration.jobs import clips, ids_and_takes, problems, wait_until, write_manifest

pytestmark = [
    BY_HAND,
    pytest.mark.long,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(not namespaces_work(), reason="no network namespaces here (they need root)"),
]
N_ROWS = 48


def submitted(head: Host, manifest: Path, output: str) -> subprocess.Popen[bytes]:
    """A run whose replica only the worker's host can hold."""
    return program(
        head, "submit", f"--address=http://{head.address}:{DASHBOARD}",
        f"--manifest={manifest}", f"--output={output}", "--model=tiny", "--slots=2",
        "--block-rows=4", "--part-clips=4", "--interval-s=1", "--replica-resource=replicas=1",
        "--lease-ttl-s=5", log="submit.log",
    )  # fmt: skip


@pytest.mark.parametrize("away_s", [AWAY_S, 1.0], ids=["given-up", "not-noticed"])
def test_a_host_that_is_cut_off_and_comes_back(away_s: float, tmp_path: Path) -> None:
    rows = [{"id": f"r{i:02d}", "prompt": f"song {i}", "duration_s": 4.0} for i in range(N_ROWS)]
    manifest = write_manifest(tmp_path / "m.parquet", rows)
    output = f"file://{tmp_path}/out"

    with two_hosts() as (head, worker):
        start_head(head, n_cpus=2)
        joined = start_worker(worker, head, n_cpus=2, resource="replicas")
        running = submitted(head, manifest, output)
        wait_until(lambda: len(clips(output)) >= 8, 240)

        worker.cut_off()
        before = len(clips(output))
        time.sleep(away_s)
        worker.plug_in()
        if away_s == AWAY_S:
            # Ray has given the node up, and it ends itself; what watches over a host starts it
            # again, as systemd, KubeRay and Slurm do.
            worker.end(joined)
            start_worker(worker, head, n_cpus=2, resource="replicas")
        code = running.wait(timeout=500)
        said = head.said("submit.log")

    assert before < N_ROWS, "it must happen in the middle"
    assert code == 0, said
    assert ids_and_takes(output) == [(row["id"], 0) for row in rows]
    assert problems(output) == []
    if away_s == AWAY_S:
        assert len({row["replica"] for row in clips(output)}) == 2, said
    assert not re.search(r"Traceback", said), said
