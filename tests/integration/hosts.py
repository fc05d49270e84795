"""Two hosts on this machine: network namespaces with an address each and a cable between them.
Nothing of what they say to each other leaves them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.integration.clusters import BIN, environment

NETWORK = "10.99.7"  # within the namespaces alone
GCS, DASHBOARD = 6379, 8265
# The head gives a silent node up after about 20 s; by default it takes more than half a minute.
HEALTH = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "2000",
    "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "3",
}
AWAY_S = 45.0  # until a host that is cut off has been given up
# The dashboard answers before the head's job agent does.
AWAIT_JOBS = f"""
import time, urllib.request
ends = time.monotonic() + 300
while True:
    try:
        urllib.request.urlopen("http://{NETWORK}.1:{DASHBOARD}/api/jobs/", timeout=5)
        break
    except OSError:
        assert time.monotonic() < ends
        time.sleep(0.3)
"""


def namespaces_work() -> bool:
    """Whether this process may make network namespaces."""
    if shutil.which("ip") is None:
        return False
    name = f"mg{os.getpid()}x"
    made = subprocess.run(["ip", "netns", "add", name], check=False, capture_output=True)
    if made.returncode == 0:
        subprocess.run(["ip", "netns", "delete", name], check=False)
    return made.returncode == 0


@dataclass
class Host:
    """One of them.

    Attributes:
        name: Of its namespace.
        address: Its own.
        folder: Ray's; short.
        started: Its processes, each the head of a group.
    """

    name: str
    address: str
    folder: Path
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def ip(self, *words: str) -> None:
        subprocess.run(["ip", "-netns", self.name, *words], check=True)

    def start(self, *command: str, log: str) -> subprocess.Popen[bytes]:
        """Runs a command on this host; its words go to a file in its folder."""
        variables = environment(self.folder) | HEALTH
        for gone in ("RAY_ADDRESS", "http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            variables.pop(gone, None)
        with (self.folder / log).open("ab") as out:
            process = subprocess.Popen(
                ["ip", "netns", "exec", self.name, *command],
                env=variables, stdout=out, stderr=out, start_new_session=True,
            )  # fmt: skip
        self.started.append(process)
        return process

    def said(self, log: str) -> str:
        path = self.folder / log
        return path.read_text(errors="replace") if path.exists() else ""

    def cut_off(self) -> None:
        """Pulls its cable."""
        self.ip("link", "set", "cable", "down")

    def plug_in(self) -> None:
        self.ip("link", "set", "cable", "up")

    def end(self, process: subprocess.Popen[bytes]) -> None:
        """A process and all that it has started."""
        for kind in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, kind)
            except ProcessLookupError:
                break
            if kind == signal.SIGTERM:
                time.sleep(1)
        process.wait(timeout=30)


@contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """A host for a head and one for a worker, joined by a cable; both gone at the end."""
    with ExitStack() as stack:
        hosts = []
        for number, letter in enumerate("hw", 1):
            name = f"mg{os.getpid()}{letter}"
            subprocess.run(["ip", "netns", "add", name], check=True)
            stack.callback(subprocess.run, ["ip", "netns", "delete", name], check=False)
            folder = Path(tempfile.mkdtemp(prefix=f"mg{letter}"))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            hosts.append(Host(name, f"{NETWORK}.{number}", folder))
        head, worker = hosts
        pair = ("type", "veth", "peer", "name", "cable", "netns", worker.name)
        head.ip("link", "add", "cable", *pair)
        for host in hosts:
            host.ip("address", "add", f"{host.address}/24", "dev", "cable")
            host.ip("link", "set", "lo", "up")
            host.ip("link", "set", "cable", "up")
        try:
            yield head, worker
        finally:
            for host in (worker, head):
                for process in host.started:
                    host.end(process)


def start_head(host: Host, n_cpus: int) -> subprocess.Popen[bytes]:
    """A Ray head with a job server, without GPUs."""
    started = host.start(
        str(BIN / "ray"), "start", "--head", "--block", "--disable-usage-stats",
        f"--node-ip-address={host.address}", f"--port={GCS}", "--dashboard-host=0.0.0.0",
        f"--dashboard-port={DASHBOARD}", f"--num-cpus={n_cpus}", "--num-gpus=0",
        "--object-store-memory=150000000", f"--temp-dir={host.folder}", log="head.log",
    )  # fmt: skip
    _await(host, started, "head.log")
    waiting = host.start(sys.executable, "-c", AWAIT_JOBS, log="await.log")
    assert waiting.wait(timeout=320) == 0, host.said("await.log")
    return started


def start_worker(host: Host, head: Host, n_cpus: int, resource: str) -> subprocess.Popen[bytes]:
    """A node with one unit of a custom resource joins the head."""
    log = f"worker{len(host.started)}.log"
    started = host.start(
        str(BIN / "ray"), "start", "--block", "--disable-usage-stats",
        f"--address={head.address}:{GCS}", f"--node-ip-address={host.address}",
        f"--num-cpus={n_cpus}", "--num-gpus=0", f'--resources={{"{resource}": 1}}',
        "--object-store-memory=150000000", log=log,
    )  # fmt: skip
    _await(host, started, log)
    return started


def program(host: Host, *words: str, log: str) -> subprocess.Popen[bytes]:
    """`musicgen-batch` on a host."""
    return host.start(sys.executable, "-m", "pipeline.cli", *words, log=log)


def _await(host: Host, started: subprocess.Popen[bytes], log: str) -> None:
    deadline = time.monotonic() + 400
    while "Ray runtime started" not in host.said(log):
        assert started.poll() is None, host.said(log)
        assert time.monotonic() < deadline, host.said(log)
        time.sleep(0.2)
