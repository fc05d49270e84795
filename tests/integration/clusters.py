"""A Ray cluster as people start one, with a job server; and a way to be rid of it alone."""

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

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


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
def job_cluster(n_cpus: int) -> Iterator[str]:
    """`ray start --head` on ports of its own; the address of its dashboard."""
    gcs, dashboard, client, agent, agent_grpc, metrics = free_ports(6)
    folder = Path(tempfile.mkdtemp(prefix="mg"))  # short: Ray puts Unix sockets below it
    command = [
        str(BIN / "ray"), "start", "--head", "--block", "--disable-usage-stats",
        "--node-ip-address=127.0.0.1", f"--port={gcs}", f"--dashboard-port={dashboard}",
        f"--ray-client-server-port={client}", f"--dashboard-agent-listen-port={agent}",
        f"--dashboard-agent-grpc-port={agent_grpc}", f"--metrics-export-port={metrics}",
        f"--num-cpus={n_cpus}", "--object-store-memory=200000000", f"--temp-dir={folder}",
    ]  # fmt: skip
    with (folder / "head.log").open("wb") as log:
        head = subprocess.Popen(
            command, env=environment(folder), stdout=log, stderr=log, start_new_session=True
        )
    try:
        _await_jobs(dashboard, head, folder / "head.log")
        yield f"http://127.0.0.1:{dashboard}"
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
