"""The melody reader, against numbers that AudioCraft computed."""

import math

import pytest
import torch
from torch import Tensor

from musicgen.conditioning.chroma import ChromaExtractor, chroma_filter_bank, tile
from musicgen.config import ChromaConfig
from tests.musicgen.checkpoint_files import golden

RELEASED = ChromaConfig(
    n_fft=16_384, hop_length=4_096, n_chroma=12, chroma_length=235, sample_rate_hz=32_000
)
SILENT = ("null", "zeros")


@pytest.fixture(scope="module")
def numbers() -> dict:
    return golden("chroma.pt")


@pytest.fixture(scope="module")
def extractor() -> ChromaExtractor:
    return ChromaExtractor(RELEASED)


def wav_of(numbers: dict, name: str) -> Tensor:
    if name in SILENT:
        return torch.zeros(1, numbers["n_samples_silent"][name])
    return numbers["wavs"][name]


@pytest.mark.parametrize(("n_fft", "name"), [(16_384, "fbanks"), (512, "small_fbanks")])
def test_filter_bank(n_fft: int, name: str) -> None:
    ours = chroma_filter_bank(32_000, n_fft, 12).float()
    torch.testing.assert_close(ours, golden("chroma_filters.pt")[name], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["m0", "noise", *SILENT])
def test_energies_and_pitch_classes(numbers: dict, extractor: ChromaExtractor, name: str) -> None:
    wav = wav_of(numbers, name)
    ours = extractor.energies(wav, 32_000).float()
    torch.testing.assert_close(ours, numbers["raw"][name], atol=1e-5, rtol=1e-5)
    assert extractor(wav, 32_000).tolist() == numbers["index"][name].tolist()


def test_a_small_window_has_the_reference_energies_too(numbers: dict) -> None:
    small = ChromaConfig(
        n_fft=512, hop_length=128, n_chroma=12, chroma_length=47, sample_rate_hz=32_000
    )
    wav = numbers["wavs"]["noise"][:, :6_000]
    ours = ChromaExtractor(small).energies(wav, 32_000).float()
    torch.testing.assert_close(ours, numbers["small_raw_noise"][0], atol=1e-5, rtol=1e-5)


def test_a_melody_past_30_s_is_cut_to_the_prefix(numbers: dict, extractor: ChromaExtractor) -> None:
    n_samples = int(numbers["m2_secs"] * 32_000)
    seconds = torch.arange(n_samples, dtype=torch.float64) / 32_000
    notes = torch.tensor(numbers["m2_freqs"], dtype=torch.float64)
    note = (seconds / numbers["m2_secs"] * len(notes)).long()
    wav = 0.5 * torch.sin(2 * math.pi * notes[note] * seconds)[None]
    expected = numbers["m2_onehot_index"][0]
    assert len(expected) == 243
    assert extractor(wav, 32_000).tolist() == expected[:235].tolist()


def test_a_short_melody_tiles(extractor: ChromaExtractor) -> None:
    index = torch.tensor([3, 1, 4])
    assert tile(index, 7).tolist() == [3, 1, 4, 3, 1, 4, 3]
    assert tile(index, 2).tolist() == [3, 1]
    assert len(tile(extractor(torch.zeros(1, 1), 32_000), 235)) == 235


@pytest.mark.parametrize("sample_rate_hz", [8_000, 32_000, 44_100, 48_000])
def test_a_tone_is_its_pitch_class_at_any_rate_and_channel_count(
    extractor: ChromaExtractor, sample_rate_hz: int
) -> None:
    seconds = torch.arange(2 * sample_rate_hz) / sample_rate_hz
    stereo = torch.sin(2 * math.pi * 440 * seconds).expand(2, -1)
    index = extractor(stereo, sample_rate_hz)
    assert len(index) == 1 + 64_000 // 4_096
    assert set(index.tolist()) == {9}  # A


@pytest.mark.parametrize("wav", [torch.zeros(1, 0), torch.zeros(8)])
def test_an_empty_melody_is_refused(extractor: ChromaExtractor, wav: Tensor) -> None:
    with pytest.raises(ValueError, match="a melody is"):
        extractor(wav, 32_000)


def test_a_melody_with_nan_is_refused(extractor: ChromaExtractor) -> None:
    wav = torch.zeros(1, 9_000)
    wav[0, 5_000] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        extractor(wav, 32_000)
