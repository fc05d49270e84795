"""Resampling and channels, against the reference's resampler (julius)."""

import pytest
import torch

from musicgen.audio import resample, resampled_pieces, resampling, to_channels
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
    torch.testing.assert_close(ours, numbers[target], atol=1e-6, rtol=0)


# Of julius 0.2.8, for `sweep()`: samples 0, 1, 700 and 1450 at each rate.
JULIUS = {
    (22_050, 32_000): [0.9999999, 0.9999998, -0.9960604, -0.9315232],
    (11_025, 32_000): [0.9999999, 0.9999996, -0.6912345, 0.6383417],
    (48_000, 44_100): [0.9999996, 0.9999993, 0.3409107, 0.2323239],
}


def sweep() -> torch.Tensor:
    return (torch.arange(2_000, dtype=torch.float64).square() * 5e-4).cos().float()[None]


@pytest.mark.parametrize("rates", JULIUS)
def test_long_periods_have_the_references_numbers_too(rates: tuple[int, int]) -> None:
    """There its kernel, computed in float32, is 1.3e-4 away from the exact one."""
    ours = resample(sweep(), *rates)[0, [0, 1, 700, 1_450]]
    torch.testing.assert_close(ours, torch.tensor(JULIUS[rates]), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("from_hz", "to_hz"), [(44_100, 16_000), (8_000, 48_000), (16_000, 16_000)]
)
@pytest.mark.parametrize("n_samples", [1, 2, 99, 1000])
def test_the_length_is_the_floor_and_a_constant_stays_one(
    from_hz: int, to_hz: int, n_samples: int
) -> None:
    ours = resample(torch.full((2, n_samples), 0.5), from_hz, to_hz)
    assert ours.shape == (2, n_samples * to_hz // from_hz)
    torch.testing.assert_close(ours, torch.full_like(ours, 0.5), atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("from_hz", "to_hz"), [(44_100, 32_000), (8_000, 48_000), (9_000, 9_000)])
def test_audio_in_blocks_gives_the_samples_of_the_whole(
    from_hz: int, to_hz: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    wav = torch.rand((2, 30_011), dtype=dtype, generator=torch.Generator().manual_seed(0))
    whole = resample(wav[:, :30_000], from_hz, to_hz)
    for name in ("WHOLE_SAMPLES", "PIECE_SAMPLES", "COLUMNS_BYTES"):
        monkeypatch.setattr(resampling, name, 7_000)

    pieces = list(resampled_pieces(wav.split(4_321, dim=1), 30_000, from_hz, to_hz))

    assert len(pieces) > 3
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, atol=1e-6, rtol=0)


def test_blocks_are_taken_to_their_end_and_must_suffice() -> None:
    wav, taken = torch.zeros(1, 100), list[int]()
    blocks = (taken.append(at) or wav for at in range(5))
    assert sum(piece.shape[1] for piece in resampled_pieces(blocks, 150, 8_000, 4_000)) == 75
    assert taken == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="ends 50 samples before its declared length"):
        list(resampled_pieces([wav], 150, 8_000, 4_000))


def test_rates_without_a_small_ratio_are_refused() -> None:
    with pytest.raises(ValueError, match="44101 Hz and 32000 Hz have no small ratio"):
        resample(torch.zeros(1, 100), 44_101, 32_000)


def test_channels_are_averaged_copied_or_cut() -> None:
    left_right = torch.tensor([[1.0, 2.0], [3.0, 6.0]])
    assert to_channels(left_right, 1).tolist() == [[2.0, 4.0]]
    assert to_channels(left_right[:1], 2).tolist() == [[1.0, 2.0], [1.0, 2.0]]
    assert to_channels(torch.cat([left_right, left_right]), 2).tolist() == left_right.tolist()
