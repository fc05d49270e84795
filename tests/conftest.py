"""Fixtures for all tests; each family of them has a file of its own."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.processes import RayApart, may_start_ray, sort_slow_files_first

# Before torch is loaded: threads that wait for each other sleep instead of spinning, which on a
# machine with other work makes two threads ten times as slow as one.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# One thread, unless a test asks for more: `make test` has two processes, and on tensors of such
# sizes two threads take longer than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

pytest_plugins = ["tests.s3", "tests.job_fixtures", "tests.reliability.outcomes"]

HERE = Path(__file__).parent
DEPLOY = ("image", "monitoring", "objects", "one_machine", "overlays", "rayjob", "scripts")
# Files that are too long for `make test-fast` as a whole; longer tests of other files are marked.
SLOW_FILES = (
    "bench/test_bench.py",
    *(f"deploy/test_{name}.py" for name in DEPLOY),
    "examples/test_examples.py",
    "gpu/test_dry_run.py",
    "manifests/isolation/test_pool.py",
    "musicgen/checkpoints/test_audiocraft.py",
    "musicgen/checkpoints/test_convert.py",
    "musicgen/checkpoints/test_load.py",
    "musicgen/codec/test_codec.py",
    "musicgen/conditioning/test_style_model.py",
    "musicgen/engine/test_invariance.py",
    "musicgen/lm/test_lm.py",
    "musicgen/test_drop_in.py",
    "musicgen/test_generation.py",
    "musicgen/test_model.py",
    "musicgen/test_parity.py",
    "musicgen/test_windows.py",
    "musicgen/tiny/test_evaluate.py",
    "musicgen/tiny/test_music.py",
    "musicgen/tiny/test_train.py",
    "pipeline/audio/test_file_level.py",
    "pipeline/dataset/browse/test_app.py",
    "pipeline/dataset/browse/test_audio.py",
    "pipeline/dataset/browse/test_guard.py",
    "pipeline/dataset/browse/test_page_browser.py",
    "pipeline/ledger/test_lease.py",
    "pipeline/ledger/test_maintain.py",
    "pipeline/planning/test_judge.py",
    "pipeline/planning/test_survey.py",
    "pipeline/replica/test_faults.py",
    "pipeline/replica/test_memory.py",
    "pipeline/replica/test_worker.py",
    "pipeline/report/test_page.py",
    "pipeline/report/test_report_browser.py",
    "pipeline/runtime/test_local.py",
)
# Ray can't make its folder there, and its error names this path.
UNMARKED = "/dev/null/only-tests-with-the-marker-ray-may-start-ray"


@pytest.hookimpl(tryfirst=True)  # before `-m` is looked at
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Every test of `tests/integration` and every user of its cluster may start Ray; every test of
    `SLOW_FILES` is slow. Processes that share the files begin with those of slow tests."""
    slow = {HERE / name for name in SLOW_FILES}
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if item.path.is_relative_to(HERE / "integration") or "ray_cluster" in fixtures:
            item.add_marker("ray")
        if item.get_closest_marker("ray") and not may_start_ray(item.nodeid):
            raise pytest.UsageError(f"{item.nodeid} starts Ray: name its file in RAY_FILES")
        if item.path in slow:
            item.add_marker("slow")
    if hasattr(config, "workerinput"):  # one of the processes of xdist
        sort_slow_files_first(items)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> RayApart:
    """Of `make test`, which runs in two processes."""
    return RayApart(config, log)


NO_BF16 = "needs a CPU with AVX-512, which this one lacks"


def _skipped_without_bf16(error: ValueError) -> None:
    """Skips a test of bf16 where the engine refuses it; on such a CPU nothing computes in it."""
    if NO_BF16 in str(error):
        pytest.skip(str(error))


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Iterator[object]:
    """Around each test."""
    try:
        return (yield)
    except ValueError as error:
        _skipped_without_bf16(error)
        raise


@pytest.fixture(autouse=True)
def ray_starts_only_where_it_is_marked(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So `make test-fast`, which leaves out what is marked, starts no Ray in any process."""
    if request.node.get_closest_marker("ray") is None:
        monkeypatch.setenv("RAY_TMPDIR", UNMARKED)
