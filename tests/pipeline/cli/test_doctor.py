"""`musicgen-batch doctor` as people run it: on a machine in good order, and on broken ones."""

import glob
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest

from musicgen.checkpoints.describe import TINY_FOLDER
from tests.s3 import S3Server

ROOT = Path(__file__).parents[3]
FAKETIME = glob.glob("/usr/lib/*/faketime/libfaketime.so.1")  # noqa: PTH207  # outside of the tree
Checks = dict[str, dict[str, Any]]


def doctor(
    *args: str, env: dict[str, str] | None = None, within: Sequence[str] = ()
) -> tuple[int, Checks]:
    """Exit code and findings by check; of several that failed in one check, the first."""
    done = subprocess.run(
        [*within, sys.executable, "-m", "pipeline.cli", "doctor", "--json", *args],
        env=_environment() | (env or {}), cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.startswith('{"ok": '), done.stderr
    answer = json.loads(done.stdout)
    assert answer["ok"] == (done.returncode == 0)
    found: Checks = {}
    for each in sorted(answer["checks"], key=lambda each: bool(each["state"] != "wrong")):
        found.setdefault(each["check"], each)
    return done.returncode, found


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return kept | {"RAY_TMPDIR": "/tmp", "PYTHONPATH": str(ROOT)}


def wrong(checks: Checks) -> list[str]:
    return sorted(name for name, each in checks.items() if each["state"] == "wrong")


@pytest.mark.slow
def test_a_machine_in_good_order(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable, "-m", "pipeline.cli", "doctor", "--model", "tiny",
            "--output", str(tmp_path / "new" / "music"),
        ],
        env=_environment() | {"COLUMNS": "80"}, cwd=ROOT, capture_output=True, text=True,
        check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout
    lines = done.stdout.splitlines()
    assert lines[-1].startswith("nothing is wrong (")
    assert max(map(len, lines)) <= 80
    told = {line[7:22].strip() for line in lines if line.startswith("OK ")}
    assert told >= {
        *("python", "packages", "torch", "checkpoint", "memory", "ray folder", "open files"),
        *("ports", "output write", "output list", "output read", "output create", "clock"),
    }
    assert list(tmp_path.iterdir()) == [], "nothing stays of the check"


class TestBroken:
    """Each is a real condition of this machine, and named as the only one that is wrong."""

    pytestmark = pytest.mark.long

    def test_a_file_of_the_checkpoint_is_missing(self, tmp_path: Path) -> None:
        folder = tmp_path / "small"
        shutil.copytree(TINY_FOLDER, folder)
        (folder / "model.safetensors").unlink()

        code, checks = doctor("--model", str(folder))

        assert (code, wrong(checks)) == (1, ["checkpoint"])
        assert "neither model.safetensors nor" in checks["checkpoint"]["found"]
        assert f"convert {folder} FOLDER" in checks["checkpoint"]["way_out"]

    def test_a_checkpoint_that_only_the_hub_has(self, tmp_path: Path) -> None:
        code, checks = doctor(
            "--model", "facebook/musicgen-small", env={"HF_HOME": str(tmp_path / "hub")}
        )

        assert (code, wrong(checks)) == (1, ["checkpoint"])
        assert "not complete in the local Hugging Face cache" in checks["checkpoint"]["found"]
        assert "musicgen-batch convert facebook/musicgen-small" in checks["checkpoint"]["way_out"]

    def test_a_folder_that_is_read_only(self, tmp_path: Path) -> None:
        code, checks = doctor(
            "--output", str(tmp_path / "music"), within=mounted(tmp_path, "ro,size=16m")
        )

        assert (code, wrong(checks)) == (1, ["output write"])
        assert "Read-only file system" in checks["output write"]["found"]
        assert checks["output write"]["way_out"].startswith("this file system is read-only")

    def test_a_disk_that_is_full(self, tmp_path: Path) -> None:
        code, checks = doctor(
            "--output", str(tmp_path / "music"), within=mounted(tmp_path, "size=1m")
        )

        assert (code, wrong(checks)) == (1, ["output write"])
        assert "No space left on device" in checks["output write"]["found"]
        assert checks["output write"]["way_out"].startswith("the disk is full: make room")

    def test_a_disk_with_little_room(self, tmp_path: Path) -> None:
        code, checks = doctor(
            "--output", str(tmp_path / "music"), within=mounted(tmp_path, "size=64m")
        )

        assert (code, wrong(checks)) == (1, ["output space"])

    def test_credentials_that_the_store_does_not_know(self, s3: S3Server) -> None:
        """On a moto that checks signatures, as every store does."""
        with moto_process({"INITIAL_NO_AUTH_ACTION_COUNT": "0"}) as endpoint:
            code, checks = doctor(
                "--output", "s3://nobodys/music",
                env={"AWS_ENDPOINT_URL": endpoint, "AWS_SECRET_ACCESS_KEY": "another"},
            )  # fmt: skip

        assert (code, wrong(checks)) == (1, ["output write"])
        assert "access was denied: check the credentials" in checks["output write"]["way_out"]
        assert "another" not in json.dumps(checks)

    @pytest.mark.skipif(not FAKETIME, reason="tests/install_deploy_tools.sh installs libfaketime")
    def test_a_clock_that_is_ten_minutes_ahead_of_the_stores(self, s3: S3Server) -> None:
        late = {"LD_PRELOAD": FAKETIME[0], "FAKETIME": "-600"}
        with moto_process(late) as endpoint:
            boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket="late")
            code, checks = doctor("--output", "s3://late/music", env={"AWS_ENDPOINT_URL": endpoint})

        assert (code, wrong(checks)) == (1, ["clock"])
        told = re.search(
            r"clock is at least ([\d.]+) s ahead of the output's", checks["clock"]["found"]
        )
        assert told
        assert 500 < float(told[1]) < 601  # less what writing took

    def test_a_torchaudio_of_another_release(self, tmp_path: Path) -> None:
        stand_in = tmp_path / "torchaudio-2.9.0.dist-info"
        stand_in.mkdir()
        (stand_in / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: torchaudio\nVersion: 2.9.0\n"
        )

        code, checks = doctor(env={"PYTHONPATH": f"{tmp_path}:{ROOT}"})

        assert (code, wrong(checks)) == (1, ["packages"])
        assert checks["packages"]["found"] == "torchaudio 2.9.0 is outside <2.12,>=2.11"
        assert checks["packages"]["way_out"] == "pip install 'torchaudio<2.12,>=2.11'"

    def test_a_torchaudio_built_for_another_cuda(self, tmp_path: Path) -> None:
        (tmp_path / "torchaudio").mkdir()
        (tmp_path / "torchaudio" / "__init__.py").write_text(
            "raise RuntimeError('Detected that PyTorch and TorchAudio were compiled with "
            "different CUDA versions')"
        )

        code, checks = doctor(env={"PYTHONPATH": f"{tmp_path}:{ROOT}"})

        assert (code, wrong(checks)) == (1, ["torch"])
        assert "different CUDA versions" in checks["torch"]["found"]

    def test_a_loopback_interface_that_is_down(self) -> None:
        code, checks = doctor(within=("unshare", "--net"))

        assert (code, wrong(checks)) == (1, ["ports"])
        assert "lo up" in checks["ports"]["way_out"]

    def test_few_open_files_and_a_long_folder(self, tmp_path: Path) -> None:
        folder = tmp_path / ("x" * 60)
        folder.mkdir()

        code, checks = doctor(
            env={"RAY_TMPDIR": str(folder)},
            within=("bash", "-c", 'ulimit -n 1024; exec "$@"', "-"),
        )

        assert (code, wrong(checks)) == (1, ["open files", "ray folder"])
        assert "ulimit -n 65536" in checks["open files"]["way_out"]
        assert "RAY_TMPDIR" in checks["ray folder"]["way_out"]


@pytest.mark.slow
def test_a_cluster_that_nobody_answers_for() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"

        code, checks = doctor("--cluster", address)

    assert (code, wrong(checks)) == (1, ["ray"])
    assert f"--cluster {address}: no Ray cluster answers there" in checks["ray"]["found"]
    assert "ray start --head" in checks["ray"]["way_out"]


def mounted(folder: Path, options: str) -> tuple[str, ...]:
    """A command that runs another where a file system of its own is mounted on the folder."""
    script = f'mount -t tmpfs -o {options} tmpfs "{folder}" && exec "$@"'
    if subprocess.run(["unshare", "--mount", "true"], check=False).returncode:
        pytest.skip("no mount namespaces here")
    return ("unshare", "--mount", "bash", "-c", script, "-")


SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(*server.get_host_and_port(), flush=True)
sys.stdin.read()
"""


@contextmanager
def moto_process(environment: dict[str, str]) -> Iterator[str]:
    """An S3 server in a process of its own, whose clock or rules the environment decides."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER], env=os.environ | environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        host, port = process.stdout.readline().split()
        yield f"http://{host}:{port}"
    finally:
        process.kill()
        process.wait()
