"""Which of the processes of `pytest -n 2` runs a test: one has all that starts Ray, and so there is
one cluster at a time; the others share the other files."""

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


class RayApart(LoadFileScheduling):
    """Hands out files; those that start Ray are one piece."""

    def _split_scope(self, nodeid: str) -> str:
        return "ray" if may_start_ray(nodeid) else nodeid.partition("::")[0]
