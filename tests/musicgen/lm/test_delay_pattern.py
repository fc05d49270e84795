"""The delay pattern against AudioCraft's layouts."""

import pytest
import torch

from musicgen.lm import delay_pattern
from tests.musicgen.toy import GOLDEN

CASES = torch.load(GOLDEN / "pattern.pt", weights_only=True)["cases"]
DELAYS = {"mono": (0, 1, 2, 3), "stereo": (0, 0, 1, 1, 2, 2, 3, 3)}


@pytest.mark.parametrize("name", CASES)
def test_the_layout_is_audiocrafts(name: str) -> None:
    case, delays = CASES[name], DELAYS[name.split("_")[0]]
    n_frames = case["z"].shape[-1]
    sequence = delay_pattern.build(case["z"], delays, special=-7)
    assert torch.equal(sequence, case["sequence"])
    assert sequence.shape[-1] == delay_pattern.n_steps(n_frames, delays) == case["S"]
    assert torch.equal(delay_pattern.frame_of_step(n_frames, delays)[1], case["mask"])


@pytest.mark.parametrize("name", CASES)
def test_revert_undoes_build(name: str) -> None:
    case, delays = CASES[name], DELAYS[name.split("_")[0]]
    codes = delay_pattern.revert(case["sequence"], delays, case["z"].shape[-1])
    assert torch.equal(codes, case["z"])
