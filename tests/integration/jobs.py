"""Manifests, processes and logs for the integration tests."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import RunSummary, job, ledger
from pipeline.config_file import load_config
from pipeline.ledger import verify
from pipeline.storage import open_storage

log = logging.getLogger(__name__)

EXAMPLES = Path(__file__).parents[2] / "manifests" / "examples"
TINY = {"model": "tiny", "slots": 2, "block_rows": 4, "part_clips": 4, "interval_s": 1.0}


def write_manifest(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    names = {name: None for row in rows for name in row}
    columns = {name: [row.get(name) for row in rows] for name in names}
    pq.write_table(pa.table(columns), path)
    return path


def run_in_process(
    manifest: str | Path,
    output: str,
    *,
    retry: bool = False,
    say: Callable[[str], None] = log.info,
    **settings: Any,
) -> RunSummary:
    """The job as `musicgen-batch run` starts it, on the cluster of the test session.

    Raises:
        KeyboardInterrupt: SIGINT drained the run. It was meant for the tests: Ctrl+C, or the time
            limit of `.ci/run`. Going on with half an output would report a failure of that output.
    """
    flags = TINY | {"manifest": str(manifest), "output": output} | settings
    summary = job.run(load_config(None, flags), retry=retry, say=say)
    if summary.drained == signal.SIGINT.name:
        raise KeyboardInterrupt
    return summary


def run_here(
    manifest: str | Path, output: str, *, retry: bool = False, **settings: Any
) -> RunSummary:
    """The same job in this process, without Ray: seconds faster. For what Ray has no part in."""
    return run_in_process(manifest, output, retry=retry, runtime="local", **settings)


def clips(output: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = ledger.read_clips(open_storage(output)).to_pylist()
    return rows


def ids_and_takes(output: str) -> list[tuple[str, int]]:
    return sorted((row["id"], row["take"]) for row in clips(output))


def problems(output: str) -> list[str]:
    return [str(problem) for problem in verify.verify(open_storage(output)).problems]


def admitted_on_ray(output: str, session: str) -> int:
    """Clips that replicas of the last run of an output began, by their logs.

    Args:
        output: The output.
        session: Folder of the session of Ray.
    """
    run_id = ledger.read_runs(open_storage(output))[-1]["run_id"]
    logs = Path(session).glob("logs/worker-*.err")
    return sum(path.read_text(errors="replace").count(f"admitted run={run_id}") for path in logs)


def wait_until(what: Callable[[], bool], timeout_s: float = 120.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


@dataclass
class Cli:
    """Starts `musicgen-batch`; every process is the head of a process group of its own."""

    folder: Path
    ray_tmp: Path
    env: dict[str, str]
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(
        self, *args: str, ray_tmp: Path | None = None, address: str | None = None
    ) -> subprocess.Popen[bytes]:
        env = self.env | {
            "RAY_TMPDIR": str(ray_tmp or self.ray_tmp),
            "RAY_AUTH_MODE": "disabled",
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        env.pop("RAY_ADDRESS", None)
        if address is not None:
            env["RAY_ADDRESS"] = address
        number = len(self.started)
        with (
            (self.folder / f"{number}.out").open("wb") as out,
            (self.folder / f"{number}.err").open("wb") as err,
        ):
            process = subprocess.Popen(
                [sys.executable, "-m", "pipeline.cli", *args],
                stdout=out, stderr=err, env=env, start_new_session=True,
            )  # fmt: skip
        self.started.append(process)
        return process

    def run(self, *args: str, timeout_s: float = 240) -> tuple[int, str, str]:
        """Exit code, stdout, stderr."""
        process = self.start(*args)
        code = process.wait(timeout=timeout_s)
        return code, self.said(process, "out"), self.said(process, "err")

    def said(self, process: subprocess.Popen[bytes], stream: str = "err") -> str:
        return (self.folder / f"{self.started.index(process)}.{stream}").read_text()

    def job(self, command: str, manifest: Path, output: str, **settings: Any) -> list[str]:
        args = [command, "--manifest", str(manifest), "--output", output]
        for name, value in (TINY | settings).items():
            flag = "--" + name.replace("_", "-")
            args += [flag] if value is True else [flag, str(value)]
        return args

    def kill_all(self) -> None:
        for process in self.started:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        for process in self.started:
            process.wait()

    def actor_logs(self) -> str:
        """What all actors of all runs have logged."""
        logs = self.ray_tmp.glob("ray/session_2*/logs/worker-*.err")
        return "\n".join(path.read_text(errors="replace") for path in logs)

    def admissions(self) -> list[str]:
        """Clip ids in the order in which replicas admitted them, over all runs."""
        return re.findall(r"admitted .*?clip_id=(\w+)", self.actor_logs())

    def replica_pids(self) -> list[int]:
        """Processes of replicas of these runs, in the order in which they became ready."""
        return self._pids_by_time(r"replica=\w+ .* ready")

    def busy_replica(self) -> int:
        """Process of the replica that began the last clip."""
        return self._pids_by_time("admitted ")[-1]

    def _pids_by_time(self, logged: str) -> list[int]:
        """For each line of the actors' logs that matches, by its time: who wrote it."""
        lines = [
            (match[1], int(path.stem.rpartition("-")[2]))
            for path in self.ray_tmp.glob("ray/session_2*/logs/worker-*.err")
            for match in re.finditer(rf"^(\S+ \S+) INFO {logged}", path.read_text(), re.M)
        ]
        return [pid for _, pid in sorted(lines)]

    def wait_for_orphans(self) -> None:
        """Waits until no replica runs any more, where Ray or the driver was killed.

        Ray's workers have process groups of their own, and make and commit clips until they see
        that Ray is gone: seconds later.
        """
        wait_until(lambda: not any(is_running(pid) for pid in self.replica_pids()))


def is_running(pid: int) -> bool:
    """Whether there is such a process; one that ended and was not waited for is none."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() != b""
    except OSError:
        return False


def read_json(text: str) -> Any:
    return json.loads(text.strip().splitlines()[-1])
