"""Separation is a hook: used where Demucs is installed, reproducible, and named either way."""

import math
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import Tensor

from musicgen.conditioning import separation
from musicgen.conditioning.chroma import ChromaExtractor
from musicgen.conditioning.separation import DemucsSeparator, load_separator, separation_name
from musicgen.config import ChromaConfig
from musicgen.windows import plan_windows


class FakeDemucs:
    """Says what it was given; its stems are known shares of the mix."""

    sources = ("drums", "bass", "other", "vocals")
    samplerate = 44_100
    audio_channels = 2

    def eval(self) -> "FakeDemucs":
        return self


@pytest.fixture
def demucs(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A stand-in for the package; `calls` holds what apply_model was called with."""
    seen = SimpleNamespace(calls=[])

    def apply_model(model: FakeDemucs, mix: Tensor, **options: object) -> Tensor:
        seen.calls.append((mix, options))
        shares = torch.tensor([8.0, 4.0, 0.5, 0.25])
        return shares[None, :, None, None] * mix[:, None]

    package, pretrained, apply = (ModuleType(f"demucs{n}") for n in ("", ".pretrained", ".apply"))
    pretrained.get_model = lambda name: FakeDemucs()  # type: ignore[attr-defined]
    apply.apply_model = apply_model  # type: ignore[attr-defined]
    package.__spec__ = SimpleNamespace()  # type: ignore[assignment]
    for module in (package, pretrained, apply):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    load_separator.cache_clear()
    yield seen
    load_separator.cache_clear()


def test_without_demucs_there_is_none_and_provenance_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(separation, "find_spec", lambda name: None)
    load_separator.cache_clear()
    assert load_separator() is None
    assert separation_name(load_separator()) == "none"
    load_separator.cache_clear()


def test_demucs_is_used_where_it_is_installed(demucs: SimpleNamespace) -> None:
    separator = load_separator()
    assert isinstance(separator, DemucsSeparator)
    assert separation_name(separator) == "htdemucs (demucs unknown, shifts=0)"
    wav = torch.sin(torch.arange(32_001) * 0.05)[None]
    lead = separator(torch.cat([wav, 3 * wav]), 32_000)
    assert lead.shape == (1, 32_001)
    inner = slice(500, -500)
    torch.testing.assert_close(lead[:, inner], 0.75 * 2 * wav[:, inner], atol=1e-2, rtol=0)
    mix, options = demucs.calls[0]
    assert mix.shape == (1, 2, 32_001 * 44_100 // 32_000)
    assert torch.equal(mix[:, 0], mix[:, 1])
    assert options["shifts"] == 0  # Demucs' default draws a random shift


def test_a_model_without_the_stems_is_refused() -> None:
    class Drums(FakeDemucs):
        sources = ("drums", "rest")

    with pytest.raises(ValueError, match="drums, rest, not other, vocals"):
        DemucsSeparator(Drums())


class HighPass:
    """A separator that takes away the bass: what is left is the first difference."""

    name = "high pass"

    def __call__(self, wav: Tensor, sample_rate_hz: int) -> Tensor:
        return torch.diff(wav.mean(dim=0, keepdim=True), n=6, prepend=torch.zeros(1, 6))


def test_a_melody_is_read_from_what_the_separator_leaves() -> None:
    config = ChromaConfig(4096, 1024, 12, chroma_length=20, sample_rate_hz=16_000)
    seconds = torch.arange(48_000) / 16_000
    mix = torch.sin(math.tau * 110.0 * seconds) + 0.2 * torch.sin(math.tau * 1046.5 * seconds)
    plain, lead = ChromaExtractor(config), ChromaExtractor(config, HighPass())
    assert (plain.separation, lead.separation) == ("none", "high pass")
    assert plain(mix[None], 16_000)[2:-2].unique().tolist() == [9]  # A, the bass
    assert lead(mix[None], 16_000)[2:-2].unique().tolist() == [0]  # C, the lead
    windows = plan_windows(60, window=50, stride=30)
    rolled = lead.windows(mix[None], 16_000, windows, frame_rate_hz=50, window_frames=50)
    assert rolled[:, 2:10].unique().tolist() == [0]
