"""The batch script on one "node": `srun` runs what it is told, in process and network namespaces of
its own, since `ray symmetric-run` ends every Ray that it sees."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.clusters import BIN, ROOT, environment
from tests.integration.jobs import ids_and_takes, write_manifest

STUBS = {
    "srun": 'exec "$@"',
    "scontrol": '[ "$1" = show ] && echo 127.0.0.1 || echo "$@" >> requeued',
}


@pytest.fixture
def ray_tmp() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="mg"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.long
def test_an_allocation_becomes_a_cluster_that_makes_every_clip(
    tmp_path: Path, ray_tmp: Path
) -> None:
    alone = ["unshare", "--pid", "--fork", "--mount-proc", "--net"]
    if subprocess.run([*alone, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no namespaces here")
    for name, body in STUBS.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    rows = [{"id": f"r{i}", "prompt": "a song", "duration_s": 1.0} for i in range(6)]
    output = f"{tmp_path}/out"
    variables = {
        "SLURM_JOB_ID": "4711", "SLURM_JOB_NUM_NODES": "1", "SLURM_GPUS_ON_NODE": "1",
        "SLURM_CPUS_PER_TASK": "10", "SLURM_JOB_NODELIST": "here", "MODEL": "tiny",
        "MANIFEST": str(write_manifest(tmp_path / "m.parquet", rows)), "OUTPUT": output,
        "PATH": f"{tmp_path}:{BIN}:{os.environ['PATH']}",
    }  # fmt: skip
    (tmp_path / "job.sbatch").write_text((ROOT / "deploy" / "slurm.sbatch").read_text())
    words = [*alone, "bash", "-c", "ip link set lo up && exec bash job.sbatch"]
    done = subprocess.run(
        words, cwd=tmp_path, env=environment(ray_tmp) | variables, timeout=200, check=False
    )

    assert done.returncode == 0
    assert ids_and_takes(output) == [(f"r{i}", 0) for i in range(6)]
    assert not (tmp_path / "requeued").exists()
