"""Jobs on a cluster that people have started, with the output on S3: `ray job submit` as it is,
`ray job stop` in the middle, and `musicgen-batch submit` for the rest."""

import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import ledger
from pipeline.storage import open_storage
from tests.integration.clusters import BIN, environment, job_cluster
from tests.integration.jobs import TINY, ids_and_takes, problems, wait_until
from tests.pipeline.outputs import committed_ids
from tests.s3 import S3Server

pytestmark = pytest.mark.s3
N_ROWS = 28


@pytest.fixture(scope="module")
def cluster(s3: S3Server) -> Iterator[str]:
    """Address of the dashboard; the cluster's nodes hold the credentials, as they should."""
    with job_cluster(n_cpus=6) as address:
        yield address


@pytest.fixture(scope="module")
def bucket(s3: S3Server) -> str:
    """A bucket with a manifest; its last row can't be made."""
    uri = s3.bucket()
    rows = {
        "id": [f"r{i:02d}" for i in range(N_ROWS)] + ["absurd"],
        "prompt": ["a song"] * (N_ROWS + 1),
        "duration_s": [3.0 + i % 4 for i in range(N_ROWS)] + [9999.0],
    }
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(rows), sink)
    open_storage(uri).put("m.parquet", sink.getvalue().to_pybytes())
    return uri


def run_flags(bucket: str, output: str, **settings: object) -> list[str]:
    named = {"manifest": f"{bucket}/m.parquet", "output": output, "lease_ttl_s": 3} | settings
    return [f"--{name.replace('_', '-')}={value}" for name, value in (TINY | named).items()]


def call(tmp_path: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """A command of a person's own machine, which has no credentials."""
    mine = {name: value for name, value in environment(tmp_path).items() if "AWS" not in name}
    return subprocess.run(
        [str(BIN / command[0]), *command[1:]],
        capture_output=True, text=True, env=mine, timeout=200, check=False,
    )  # fmt: skip


def submit(tmp_path: Path, cluster: str, words: Sequence[str]) -> tuple[int, str, str]:
    """Exit code, log, messages."""
    program = ["python", "-m", "pipeline.cli", "submit", "--address", cluster]
    done = call(tmp_path, *program, *words)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.long
def test_a_job_is_stopped_and_another_makes_the_rest(
    cluster: str, bucket: str, tmp_path: Path
) -> None:
    output = f"{bucket}/stopped"
    storage = open_storage(output)
    job = ["--address", cluster]
    given = run_flags(bucket, output)

    started = call(
        tmp_path, "ray", "job", "submit", *job, "--submission-id=one", "--no-wait",
        '--runtime-env-json={"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "60"}}',
        "--", "musicgen-batch", "run", *given,
    )  # fmt: skip
    assert started.returncode == 0, started.stdout + started.stderr
    wait_until(lambda: len(committed_ids(storage)) >= 8)
    stopped = call(tmp_path, "ray", "job", "stop", *job, "one")
    assert "stopped" in stopped.stdout + stopped.stderr, stopped.stdout + stopped.stderr
    before = ids_and_takes(output)
    assert 8 <= len(before) < N_ROWS, "it must be stopped in the middle"
    assert ledger.read_runs(storage)[-1]["state"] == "drained"

    code, log, said = submit(tmp_path, cluster, given)

    assert code == 3, log + said  # the driver's own: one row stands as a dead letter
    assert ids_and_takes(output) == [(f"r{i:02d}", 0) for i in range(N_ROWS)]
    assert problems(output) == []
    last = ledger.read_runs(storage)[-1]
    assert f"job {last['run_id']} is on {cluster}" in said
    assert (last["state"], last["done"]) == ("done", N_ROWS - len(before))
    assert f"{last['done']} clips, " in log
    for secret in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        assert os.environ[secret] not in log + said
