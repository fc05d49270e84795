"""A Ray cluster as people start one, with a job server; and a way to be rid of it alone."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
# On whole clusters: minutes each, too heavy to run beside other tests on 2 cores.
BY_HAND = pytest.mark.skipif(
    not os.environ.get("MUSICGEN_TEST_CLUSTERS"),
    reason="by hand, on an idle machine: MUSICGEN_TEST_CLUSTERS=1",
)


def free_ports(n: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def environment(folder: Path) -> dict[str, str]:
    """Of `ray start`, and so of every driver and actor: this checkout and the S3 credentials."""
    return os.environ | {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "RAY_TMPDIR": str(folder),
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_raylet_start_wait_time_s": "120",
    }


@contextmanager
def job_cluster(n_cpus: int, folder: Path | None = None) -> Iterator[str]:
    """`ray start --head` with a job server; the address of its dashboard.

    Args:
        n_cpus: Of its only node.
        folder: Ray's, short and empty; by default one of its own.
    """
    (dashboard,) = free_ports(1)
    flags = (f"--num-cpus={n_cpus}", f"--dashboard-port={dashboard}")
    with _head(*flags, folder=folder) as (_, head, log):
        _await_jobs(dashboard, head, log)
        yield f"http://127.0.0.1:{dashboard}"


@contextmanager
def plain_cluster(*flags: str) -> Iterator[str]:
    """`ray start --head` without a dashboard; what RAY_ADDRESS is to be."""
    with _head("--include-dashboard=false", *flags) as (address, head, log):
        deadline = time.monotonic() + 120
        while "Ray runtime started" not in log.read_text():
            assert head.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield address


@contextmanager
def autoscaling_cluster(folder: Path, head_cpus: int, worker: dict[str, float]) -> Iterator[str]:
    """A cluster whose autoscaler starts up to one more node, on this machine, when work waits."""
    (gcs,) = free_ports(1)
    lists = (
        *("initialization_commands", "setup_commands", "head_setup_commands"),
        *("worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands"),
        *("cluster_synced_files", "rsync_exclude", "rsync_filter"),
    )
    plan = {
        "cluster_name": "test",
        "max_workers": 1,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 10,
        "provider": {"type": "fake_multinode", "gcs_address": f"127.0.0.1:{gcs}"},
        "head_node_type": "head",
        "available_node_types": {
            "head": {"resources": {"CPU": head_cpus}, "node_config": {}, "max_workers": 0},
            "worker": {"resources": worker, "node_config": {}, "max_workers": 1},
        },
        "file_mounts_sync_continuously": False,
        **{name: {} for name in ("docker", "auth", "file_mounts")},
        **{name: [] for name in lists},
    }
    (folder / "autoscaler.json").write_text(json.dumps(plan))
    with plain_cluster(
        f"--num-cpus={head_cpus}",
        f"--port={gcs}",
        f"--autoscaling-config={folder / 'autoscaler.json'}",
    ) as address:
        yield address


@contextmanager
def _head(
    *flags: str, folder: Path | None = None
) -> Iterator[tuple[str, subprocess.Popen[bytes], Path]]:
    """A head node on ports of its own: its address, its process and its log."""
    gcs, client, agent, agent_grpc, metrics = free_ports(5)
    named = dict(flag.split("=", 1) for flag in flags)
    gcs = int(named.setdefault("--port", str(gcs)))
    folder = folder or Path(tempfile.mkdtemp(prefix="mg"))  # short: Unix sockets lie below it
    command = [
        str(BIN / "ray"), "start", "--head", "--block", "--disable-usage-stats",
        "--node-ip-address=127.0.0.1", f"--ray-client-server-port={client}",
        f"--dashboard-agent-listen-port={agent}", f"--dashboard-agent-grpc-port={agent_grpc}",
        f"--metrics-export-port={metrics}", "--object-store-memory=200000000",
        f"--temp-dir={folder}", *(f"{name}={value}" for name, value in named.items()),
    ]  # fmt: skip
    environ = environment(folder) | {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1"}
    with (folder / "head.log").open("wb") as log:
        head = subprocess.Popen(
            command, env=environ, stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield f"127.0.0.1:{gcs}", head, folder / "head.log"
    finally:
        # All that it has started, but no other Ray of this machine, as `ray stop` would.
        os.killpg(head.pid, signal.SIGKILL)
        head.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _await_jobs(port: int, head: subprocess.Popen[bytes], log: Path) -> None:
    """The dashboard answers before the head's job agent does; ask for what jobs need."""
    import requests

    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert head.poll() is None, log.read_text()
        try:
            answer = requests.get(f"http://127.0.0.1:{port}/api/jobs/", timeout=5)
        except requests.ConnectionError:
            time.sleep(0.2)
            continue
        if answer.ok:
            return
        time.sleep(0.2)
    raise AssertionError(log.read_text())
