"""The disk of an output is full, or read-only, while a run writes to it: a real, small one."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.ledger.parts import publish_part
from tests.integration.jobs import run_here, write_manifest
from tests.reliability.attempts import attempt
from tests.reliability.outcomes import Outcome, fault

pytestmark = pytest.mark.slow

IDS = [f"r{i}" for i in range(6)]
SETTINGS = {"part_clips": 2, "slots": 2, "lease_ttl_s": 1.0}
AT_RISK = 4  # an uncommitted part and the clips in the slots


@dataclass(frozen=True)
class Disk:
    """A disk in memory that one process alone sees mounted; others reach it through that one."""

    shell: subprocess.Popen[str]
    mount: Path

    @property
    def folder(self) -> Path:
        return Path(f"/proc/{self.shell.pid}/root{self.mount}")

    def mounted(self, options: str) -> None:
        """Mounts it, or mounts it anew with other options."""
        assert self.shell.stdin is not None
        assert self.shell.stdout is not None
        self.shell.stdin.write(f"mount -t tmpfs -o {options} tmpfs {self.mount}; echo $?\n")
        self.shell.stdin.flush()
        assert self.shell.stdout.readline() == "0\n", options


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Needs no rights of root where the kernel lets users have name spaces of their own."""
    command = ["unshare", "--user", "--map-root-user", "--mount"]
    if shutil.which("unshare") is None or subprocess.run([*command, "true"]).returncode:
        pytest.skip("unshare may not make a name space here")
    shell = subprocess.Popen(
        [*command, "sh"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    (tmp_path / "disk").mkdir()
    found = Disk(shell, tmp_path / "disk")
    found.mounted("size=1m")
    yield found
    shell.kill()
    shell.communicate()


def fill(disk: Disk) -> None:
    with (
        suppress(OSError),
        (disk.folder / "of-somebody-else").open("wb", buffering=0) as file,
    ):
        while file.write(bytes(4096)):
            pass


def make_room(disk: Disk) -> None:
    (disk.folder / "of-somebody-else").unlink()


def make_read_only(disk: Disk) -> None:
    disk.mounted("remount,ro")


def make_writable(disk: Disk) -> None:
    disk.mounted("remount,rw")


@pytest.mark.parametrize(
    ("harm", "mend", "says"),
    [
        pytest.param(
            fill, make_room, "(the disk is full: make room and run the same command again)",
            marks=fault("disk/full", "the disk is full", "after the first part; room made, again"),
        ),
        pytest.param(
            make_read_only, make_writable, "(this file system is read-only: choose another path)",
            marks=fault(
                "disk/read-only", "the disk becomes read-only",
                "after the first part; writable, again",
            ),
        ),
    ],
)  # fmt: skip
def test_what_was_committed_stands_and_the_same_command_goes_on(
    harm: Callable[[Disk], None],
    mend: Callable[[Disk], None],
    says: str,
    disk: Disk,
    tmp_path: Path,
    outcome: Outcome,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [{"id": id, "prompt": f"song {id}", "duration_s": 0.1} for id in IDS]
    manifest, output = write_manifest(tmp_path / "m.parquet", rows), f"file://{disk.folder}/out"

    def publish_then_harm(*arguments: Any, **named: Any) -> str:
        path = publish_part(*arguments, **named)
        harm(disk)
        return path

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.ledger.reader.publish_part", publish_then_harm)
        code, said = attempt(run_here, manifest, output, **SETTINGS)
    mend(disk)
    again, _ = attempt(run_here, manifest, output, **SETTINGS)

    assert "ERROR" not in said, "it is said once, in a sentence"
    outcome.told(f"error: cannot …{says}", said)
    outcome.ended(output, IDS, exits=[code, again], redone_at_most=AT_RISK)


@fault("disk/deleted", "the output is deleted", "after the first part; the same command again")
def test_an_output_that_is_deleted_is_made_anew(
    tmp_path: Path, outcome: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"id": id, "prompt": f"song {id}", "duration_s": 0.1} for id in IDS]
    manifest, folder = write_manifest(tmp_path / "m.parquet", rows), tmp_path / "out"

    def publish_then_delete(*arguments: Any, **named: Any) -> str:
        path = publish_part(*arguments, **named)
        while folder.exists():
            shutil.rmtree(folder, ignore_errors=True)
        return path

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.ledger.reader.publish_part", publish_then_delete)
        code, said = attempt(run_here, manifest, f"file://{folder}", **SETTINGS)
    again, _ = attempt(run_here, manifest, f"file://{folder}", **SETTINGS)

    assert said.count("error: ") == 1
    assert "took over" not in said
    outcome.told("error: …was deleted, or moved away, while this run was writing to it", said)
    outcome.ended(f"file://{folder}", IDS, exits=[code, again], redone_at_most=6)
