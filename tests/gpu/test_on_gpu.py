"""The checks of `make gpu-check` as tests, where a GPU is."""

import pytest
import torch

from musicgen.engine.cuda import use_repeatable_numerics
from tests.gpu.case import Check, Context, outcome_of
from tests.gpu.checks import THEMES

TESTED = ("numbers", "launching", "probes", "trouble")  # what only measures is left out
CHECKS = [check for theme in TESTED for check in THEMES[theme]]


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_check(check: Check) -> None:
    use_repeatable_numerics()
    outcome = outcome_of(check, Context(torch.device("cuda"), tiny=False))
    if outcome.verdict == "SKIP":
        pytest.skip(outcome.message)
    assert outcome.verdict == "PASS", (outcome.message, outcome.figures)
