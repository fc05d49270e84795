"""`make test-fast` leaves out what takes long, by markers that exist and that are enforced."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from tests.conftest import SLOW_FILES, UNMARKED

ROOT = Path(__file__).parents[2]


def test_a_test_without_the_marker_cannot_start_ray() -> None:
    code = "import ray; ray.init(address='local', num_cpus=1, include_dashboard=False)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1
    assert UNMARKED in done.stderr


def test_the_fast_run_names_markers_that_are_declared() -> None:
    """Pytest says nothing about an unknown name after `-m`, and leaves out nothing for it."""
    (fast,) = re.findall(r"^FAST := (not \(.+\))$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    declared = {line.partition(":")[0] for line in options["markers"]}

    named = set(re.findall(r"\w+", fast)) - {"not", "or"}

    assert {"ray", "s3", "slow", "long"} <= named <= declared


def test_files_that_are_left_out_are_there() -> None:
    """One that was renamed would be part of the fast run without a word."""
    assert [name for name in SLOW_FILES if not (ROOT / "tests" / name).is_file()] == []
