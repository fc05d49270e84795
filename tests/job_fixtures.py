"""What tests of whole jobs share: a Ray cluster in this process, and the command line beside it."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.jobs import Cli
from tests.s3 import S3Server


@pytest.fixture(scope="session")
def ray_cluster(s3: S3Server) -> Iterator[None]:
    """One Ray for all in-process jobs; started after S3, so that its workers know the endpoint."""
    import ray

    # More logical CPUs than cores: every pool and every reading task reserves one.
    ray.init(
        address="local", num_cpus=8, resources={"slot": 4}, object_store_memory=300_000_000,
        include_dashboard=False, log_to_driver=False,
        _system_config={"metrics_report_interval_ms": 1000},
    )  # fmt: skip
    yield
    ray.shutdown()


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    """`musicgen-batch` in processes of its own, each with a local Ray; killed at the end."""
    ray_tmp = Path(tempfile.mkdtemp(prefix="mg"))  # short: Ray puts Unix sockets below it
    runner = Cli(tmp_path, ray_tmp, dict(os.environ))
    yield runner
    runner.kill_all()
    shutil.rmtree(ray_tmp, ignore_errors=True)
