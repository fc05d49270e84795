"""The nightly run as Kubernetes would call it: the pod's own command of the overlay `nightly`,
against a Ray cluster: the manifest of the day, an overlap, each exit code that matters."""

import datetime as dt
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.storage import open_storage
from tests.deploy.files import deployment
from tests.deploy.nightly_rules import verdict
from tests.integration.clusters import BY_HAND, environment, job_cluster
from tests.integration.jobs import ids_and_takes, problems, wait_until
from tests.s3 import S3Server

pytestmark = [BY_HAND, pytest.mark.s3, pytest.mark.long, pytest.mark.timeout(600)]
N_ROWS = 48  # more than a minute of work: the other pods start meanwhile
JOB = deployment().nightly["CronJob"]["spec"]["jobTemplate"]["spec"]
# What is changed of the pod's command: addresses, and sizes that fit a machine without GPUs.
SIZES = {
    "--model": "tiny", "--replicas": "1", "--gpus-per-replica": "0", "--cpus-per-replica": "1",
    "--slots": "2", "--prepare-workers": "1", "--part-clips": "4", "--drain-s": "1",
}  # fmt: skip


@pytest.fixture(scope="module")
def cluster(s3: S3Server) -> Iterator[str]:
    with job_cluster(n_cpus=6) as address:
        yield address


@pytest.fixture
def bucket(s3: S3Server) -> str:
    """A bucket with the manifest of today."""
    return with_manifest(s3.bucket(), today())


def today() -> str:
    return dt.datetime.now(dt.UTC).date().isoformat()


def with_manifest(bucket: str, day: str, *, broken: bool = False) -> str:
    rows = {
        "id": [f"r{i:02d}" for i in range(N_ROWS)],
        "prompt": ["a song"] * N_ROWS,
        "duration_s": [4.0] * (N_ROWS - 1) + [9999.0 if broken else 4.0],
    }
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(rows), sink)
    open_storage(bucket).put(f"prompts/{day}.parquet", sink.getvalue().to_pybytes())
    return bucket


def pod(
    cluster: str, bucket: str, folder: Path, *, waits: bool = True, **changed: str
) -> subprocess.Popen[bytes]:
    """Starts what the container of the CronJob is told, without its `--wait` if asked to."""
    (container,) = JOB["template"]["spec"]["containers"]
    assert container["command"] == ["musicgen-batch"]
    values = SIZES | {"--address": cluster}
    values |= {f"--{name.replace('_', '-')}": value for name, value in changed.items()}
    words = []
    for word in container["args"]:
        name, mark, value = word.partition("=")
        value = value.replace("s3://bucket", bucket)
        words.append(f"{name}={values.get(name, value)}" if mark else word)
    assert "{date}" in "".join(words)
    assert "--wait" in words
    if not waits:
        words.remove("--wait")
    assert set(values) - {word.partition("=")[0] for word in words} == set()
    number = len(list(folder.glob("pod*.log")))
    with (folder / f"pod{number}.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "pipeline.cli", *words],
            env=environment(folder), stdout=log, stderr=log,
        )  # fmt: skip


def all_rows() -> list[tuple[str, int]]:
    return [(f"r{i:02d}", 0) for i in range(N_ROWS)]


def test_a_night_and_two_runs_that_overlap_it(cluster: str, bucket: str, tmp_path: Path) -> None:
    """The lease lets one write. A run that does not wait ends with 4, which is not tried again; one
    that waits, as an evicted pod's second try, finds everything done. Each clip once."""
    first = pod(cluster, bucket, tmp_path)
    wait_until(lambda: len(committed(bucket)) >= 4)
    second = pod(cluster, bucket, tmp_path, waits=False)
    third = pod(cluster, bucket, tmp_path)

    codes = [each.wait(timeout=500) for each in (first, second, third)]

    assert codes == [0, 4, 0], (tmp_path / "pod1.log").read_text()
    assert [verdict(JOB, code) for code in codes] == ["done", "failed", "done"]
    assert ids_and_takes(f"{bucket}/music") == all_rows()
    assert problems(f"{bucket}/music") == []


def test_a_night_that_runs_out_of_time_goes_on_with_its_next_try(
    cluster: str, bucket: str, tmp_path: Path
) -> None:
    tries = [pod(cluster, bucket, tmp_path, max_runtime="12s")]
    assert tries[0].wait(timeout=300) == 5, (tmp_path / "pod0.log").read_text()
    assert verdict(JOB, 5) == "again"
    assert committed(bucket) < set(all_rows())

    again = pod(cluster, bucket, tmp_path)

    assert again.wait(timeout=300) == 0
    assert ids_and_takes(f"{bucket}/music") == all_rows()


def test_dead_letters_and_a_day_without_a_manifest_are_not_tried_again(
    cluster: str, s3: S3Server, tmp_path: Path
) -> None:
    broken = with_manifest(s3.bucket(), today(), broken=True)
    other_day = with_manifest(s3.bucket(), "2020-01-01")

    codes = [pod(cluster, where, tmp_path).wait(timeout=300) for where in (broken, other_day)]

    assert codes == [3, 2]
    assert [verdict(JOB, code) for code in codes] == ["failed", "failed"]
    assert ids_and_takes(f"{broken}/music") == all_rows()[:-1]
    assert f"prompts/{today()}.parquet" in (tmp_path / "pod1.log").read_text()


def committed(bucket: str) -> set[tuple[str, int]]:
    storage = open_storage(f"{bucket}/music")
    return set(ids_and_takes(f"{bucket}/music")) if storage.exists("clips") else set()
