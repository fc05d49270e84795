"""Resampling and channels, against the reference's resampler (julius)."""

import pytest
import torch

from musicgen.audio import resample, to_channels
from tests.musicgen.checkpoint_files import golden


@pytest.mark.parametrize(
    ("source", "from_hz", "target", "channels"),
    [
        ("src44k_stereo", 44_100, "to32k_stereo", 2),
        ("src44k_stereo", 44_100, "to32k_mono", 1),
        ("src24k", 24_000, "up32k", 1),
    ],
)
def test_resampling_equals_the_reference_up_to_the_edges(
    source: str, from_hz: int, target: str, channels: int
) -> None:
    numbers = golden("resample.pt")
    ours = to_channels(resample(numbers[source], from_hz, 32_000), channels)
    assert ours.shape == numbers[target].shape
    torch.testing.assert_close(ours, numbers[target], atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    ("from_hz", "to_hz"), [(44_100, 16_000), (8_000, 48_000), (16_000, 16_000)]
)
@pytest.mark.parametrize("n_samples", [1, 2, 99, 1000])
def test_the_length_is_the_floor_and_a_constant_stays_one(
    from_hz: int, to_hz: int, n_samples: int
) -> None:
    ours = resample(torch.full((2, n_samples), 0.5), from_hz, to_hz)
    assert ours.shape == (2, n_samples * to_hz // from_hz)
    torch.testing.assert_close(ours, torch.full_like(ours, 0.5), atol=2e-3, rtol=0)


def test_rates_without_a_small_ratio_are_refused() -> None:
    with pytest.raises(ValueError, match="44101 Hz and 32000 Hz have no small ratio"):
        resample(torch.zeros(1, 100), 44_101, 32_000)


def test_channels_are_averaged_copied_or_cut() -> None:
    left_right = torch.tensor([[1.0, 2.0], [3.0, 6.0]])
    assert to_channels(left_right, 1).tolist() == [[2.0, 4.0]]
    assert to_channels(left_right[:1], 2).tolist() == [[1.0, 2.0], [1.0, 2.0]]
    assert to_channels(torch.cat([left_right, left_right]), 2).tolist() == left_right.tolist()
