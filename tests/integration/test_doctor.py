"""`musicgen-batch doctor` on a Ray cluster: from one of its machines, and as a job."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.clusters import BY_HAND, environment, job_cluster, plain_cluster

pytestmark = [BY_HAND, pytest.mark.long, pytest.mark.timeout(600)]


def doctor(folder: Path, *args: str) -> tuple[int, dict[str, dict[str, Any]]]:
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", "doctor", "--json", *args],
        env=environment(folder), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.startswith('{"ok": '), done.stderr
    checks = json.loads(done.stdout)["checks"]
    return done.returncode, {each["check"]: each for each in checks}


def test_every_node_of_a_cluster_is_checked(tmp_path: Path) -> None:
    with plain_cluster("--num-cpus=3") as address:
        code, checks = doctor(
            tmp_path, "--cluster", address, "--model=tiny", f"--output={tmp_path}/out"
        )
        job = tmp_path / "job.yaml"
        job.write_text("cluster:\n  replicas: 9\n  gpus_per_replica: 1\n")
        too_much, wanting = doctor(tmp_path, "--cluster", address, "--config", str(job))

    assert code == 0, checks
    assert checks["ray"]["found"].endswith("1 node")
    assert checks["ray resources"]["found"].startswith("3 CPUs; a run wants 1 replica")
    nodes = set()
    for check in ("python", "packages", "torch", "checkpoint", "output create", "clock"):
        assert checks[check]["state"] == "ok", checks[check]
        nodes.add(checks[check]["node"])
    (node,) = nodes
    assert re.fullmatch(r"\d+\.\d+\.\d+\.\d+/[0-9a-f]{6}", node), "address and id of the node"
    assert too_much == 1
    assert wanting["ray resources"]["state"] == "wrong"
    assert "no place for 9 replicas" in wanting["ray resources"]["found"]


def test_a_cluster_behind_its_dashboard_is_checked_by_a_job(tmp_path: Path) -> None:
    with job_cluster(n_cpus=3) as address:
        code, checks = doctor(
            tmp_path, "--cluster", address, "--model=tiny", f"--output={tmp_path}/out"
        )
        lacking, said = doctor(tmp_path, "--cluster", address, "--executable=no-such-program")

    assert code == 0, checks
    assert checks["ray jobs"]["state"] == "ok"
    assert checks["checkpoint"]["state"] == "ok"
    assert checks["output write"]["state"] == "ok"
    assert lacking == 1
    assert "ended without an answer" in said["ray jobs"]["found"]
    assert "--executable" in said["ray jobs"]["way_out"]
