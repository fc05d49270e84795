"""Which of the processes of `pytest -n 2` runs a test: one has all that starts Ray, and so there is
one cluster at a time; the others share the other files."""

from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling

# Outside of tests/integration; a test that may start Ray and stands in another file is an error.
RAY_FILES = (
    "tests/bench/test_bench.py",
    "tests/bench/test_soak.py",
    "tests/examples/test_examples.py",
    "tests/packaging/test_wheel.py",
    "tests/pipeline/runtime/test_ray_cluster.py",
    "tests/pipeline/runtime/test_ray_pool.py",
    "tests/pipeline/test_processor.py",
)


def may_start_ray(nodeid: str) -> bool:
    """Whether a test belongs to the process that has Ray."""
    return nodeid.startswith(("tests/integration/", *RAY_FILES))


def sort_slow_files_first(items: list[pytest.Item]) -> None:
    """Puts first what starts Ray, then files with slow tests, so that no process has a long file
    left when the others are done."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (not may_start_ray(item.nodeid), item.path not in slow))


class RayApart(LoadFileScheduling):
    """Hands out files in the order of the tests; those that start Ray are one piece."""

    def __init__(self, config: pytest.Config, log: Any) -> None:
        config.option.loadscopereorder = False  # else those with the most tests go first
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        return "ray" if may_start_ray(nodeid) else nodeid.partition("::")[0]
