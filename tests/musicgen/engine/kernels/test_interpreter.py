"""The kernels on a CPU, in Triton's interpreter.

Triton reads the switch for its interpreter when a kernel is defined, so the tests of the files
`interpreted_*.py` run in a process of their own, which this one starts.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[3]
FILES = sorted(str(path) for path in HERE.glob("interpreted_*.py"))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "marked", ["not long", pytest.param("long", marks=pytest.mark.long)], ids=["usual", "long"]
)
def test_the_kernels_compute_what_the_eager_step_computes(marked: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", marked, *FILES]
    env = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "PYTEST_ADDOPTS": ""}
    ran = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert " passed" in ran.stdout
    assert "skipped" not in ran.stdout
