"""The script of `make gpu-check` runs where there is no GPU, and a bad check stops no other."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.bench import table
from tests.gpu import check
from tests.gpu.case import (
    Check,
    CheckFailed,
    CheckSkipped,
    Context,
    Figures,
    outcome_of,
    require,
)
from tests.gpu.checks import THEMES, all_checks
from tests.gpu.fake_worker import serve

ROOT = Path(__file__).parents[2]
CPU = Context(torch.device("cpu"), tiny=True)
BLOCKED = ("ray", "pydantic", "boto3", "botocore", "s3fs", "pyarrow", "soundfile", "torchaudio",
           "click", "rich", "pytest")  # fmt: skip
WITHOUT = """
import sys
for name in {names!r}:
    sys.modules[name] = None
import tests.gpu.check
import tests.gpu.checks
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_whole_script_on_a_cpu(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.gpu.check", "--out", str(tmp_path)]
    done = subprocess.run(
        [*command, "--device", "cpu", "--tiny", "--limit-s", "580"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "gpu-check.json").read_text())
    verdicts = {each["name"]: each["verdict"] for each in found["outcomes"]}
    assert verdicts.keys() == all_checks().keys()
    needs_cuda = {name for name, each in all_checks().items() if each.needs_cuda}
    assert {name for name, verdict in verdicts.items() if verdict == "SKIP"} == needs_cuda
    assert "FAIL" not in verdicts.values()
    assert f"{len(needs_cuda)} SKIP" in done.stdout
    written = table.figures(tmp_path)
    assert any(line.startswith("| small | 2 | 30 |") for line in written)


@pytest.mark.slow
def test_it_needs_nothing_but_torch_transformers_triton_and_numpy() -> None:
    code = WITHOUT.format(names=BLOCKED)
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_names_are_unique_and_budgets_fit() -> None:
    checks = [each for theme in THEMES.values() for each in theme]
    assert len(all_checks()) == len(checks)
    assert all(each.run.__doc__ or each.name.startswith("steps of") for each in checks)


def fails(context: Context) -> Figures:
    raise CheckFailed("two bits differ", {"bits": 2})


def skips(context: Context) -> Figures:
    raise CheckSkipped("no second card")


def requires(context: Context) -> Figures:
    require(context.tiny, "is not reached")
    require(not context.tiny, "must not be tiny", {"tiny": True})
    return {}


def breaks(context: Context) -> Figures:
    raise ZeroDivisionError("division by zero")


@pytest.mark.parametrize(
    ("run", "verdict", "message", "figures"),
    [
        (fails, "FAIL", "two bits differ", {"bits": 2}),
        (skips, "SKIP", "no second card", {}),
        (requires, "FAIL", "must not be tiny", {"tiny": True}),
        (breaks, "FAIL", "ZeroDivisionError: division by zero", {}),
        (lambda context: {"left_s": context.left_s < 9}, "PASS", "", {"left_s": True}),
    ],
)
def test_what_a_check_raises_is_its_outcome(
    run: object, verdict: str, message: str, figures: Figures
) -> None:
    outcome = outcome_of(Check("some", run, 9), CPU)  # type: ignore[arg-type]
    assert (outcome.verdict, outcome.message, outcome.figures) == (verdict, message, figures)


def test_without_cuda_what_needs_it_is_skipped() -> None:
    outcome = outcome_of(Check("some", breaks, 9, needs_cuda=True), CPU)
    assert (outcome.verdict, outcome.message) == ("SKIP", "needs a CUDA device")


@pytest.mark.slow
def test_a_check_that_kills_or_hangs_its_process_stops_no_other() -> None:
    machine, *outcomes = check.run("cpu", tiny=True, only=[], limit_s=100, serve=serve)
    assert machine == {"device": "cpu"}
    assert [each["verdict"] for each in outcomes] == ["FAIL", "FAIL", "PASS"]
    assert "died" in outcomes[0]["message"]
    assert "no answer within" in outcomes[1]["message"]


@pytest.mark.slow
def test_what_the_whole_run_has_no_time_for_fails() -> None:
    _, *outcomes = check.run("cpu", tiny=True, only=["passes"], limit_s=0.0, serve=serve)
    assert [each["verdict"] for each in outcomes] == ["FAIL"]
    assert "the 0 s of the whole run were over" in outcomes[0]["message"]
