"""An S3 server for the tests: moto in this process, or with MUSICGEN_TEST_S3=ceph a real Ceph.

The same tests run on both. Ceph needs the Debian packages that `install_ceph.sh` installs.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import boto3
import pytest

ACCESS_KEY, SECRET_KEY = "TESTACCESSKEY0001", "test-secret-0001"


@dataclass(frozen=True)
class S3Server:
    """A running server; credentials and endpoint are in the environment too."""

    endpoint: str

    def bucket(self) -> str:
        """The URI of a fresh, empty bucket."""
        name = "bucket-" + secrets.token_hex(6)
        boto3.client("s3", endpoint_url=self.endpoint).create_bucket(Bucket=name)
        return f"s3://{name}"


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """The server that MUSICGEN_TEST_S3 names; stopped at the end of the session."""
    kind = os.environ.get("MUSICGEN_TEST_S3", "moto")
    start = {"moto": _moto, "ceph": _ceph}[kind]
    nowhere = tmp_path_factory.mktemp("aws") / "none"
    with ExitStack() as stack:
        endpoint = stack.enter_context(start())
        environment = {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": str(nowhere),
            "AWS_SHARED_CREDENTIALS_FILE": str(nowhere),
        }
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name, value in environment.items():
            patch.setenv(name, value)
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
            patch.delenv(name, raising=False)
        yield S3Server(endpoint)


@pytest.fixture(params=["file", pytest.param("s3", marks=pytest.mark.s3)])
def output_root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place for an output: once a local folder, once an S3 prefix."""
    if request.param == "file":
        return f"file://{tmp_path}/out"
    server: S3Server = request.getfixturevalue("s3")
    return server.bucket() + "/some/out"


@contextmanager
def _moto() -> Iterator[str]:
    from moto.server import ThreadedMotoServer  # takes a second to import

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@contextmanager
def _ceph() -> Iterator[str]:
    folder = Path(tempfile.mkdtemp(prefix="ceph-"))  # a short path: it holds Unix sockets
    s3_port, mon_port = _free_ports(2)
    script = Path(__file__).with_name("ceph_up.sh")
    arguments = [str(folder), str(s3_port), str(mon_port), ACCESS_KEY, SECRET_KEY]
    try:
        subprocess.run(["bash", str(script), *arguments], check=True, timeout=180)
        yield f"http://127.0.0.1:{s3_port}"
    finally:
        for pid_file in folder.glob("run/*.pid"):
            os.kill(int(pid_file.read_text()), signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def _free_ports(n: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
