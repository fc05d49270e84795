"""The level of a clip by the reference's strategies."""

import logging
import math

import pytest
import torch
from torch import Tensor
from torchaudio.functional import loudness

from musicgen.audio import normalize_audio, normalize_loudness

RATE_HZ = 16_000


def tone(height: float, n: int = RATE_HZ, channels: int = 1) -> Tensor:
    seconds = torch.arange(n) / RATE_HZ
    return (height * torch.sin(math.tau * 440 * seconds)).expand(channels, -1).clone()


def rms(wav: Tensor) -> float:
    return float(wav.square().mean().sqrt())


@pytest.mark.parametrize("height", [0.01, 3.0])
def test_peak_brings_the_highest_sample_to_the_headroom(height: float) -> None:
    levelled = normalize_audio(tone(height), peak_clip_headroom_db=6)
    assert float(levelled.abs().max()) == pytest.approx(10 ** (-6 / 20))


@pytest.mark.parametrize("strategy", ["peak", "rms"])
def test_without_normalize_only_what_is_too_loud_is_turned_down(strategy: str) -> None:
    quiet, loud = tone(0.01), tone(3.0)
    assert torch.equal(normalize_audio(quiet, False, strategy), quiet)
    expected = normalize_audio(loud, True, strategy)
    assert torch.equal(normalize_audio(loud, False, strategy), expected)
    assert rms(expected) < rms(loud) / 2


def test_clip_cuts_off_and_leaves_the_rest() -> None:
    wav = tone(2.0)
    cut = normalize_audio(wav, strategy="clip", peak_clip_headroom_db=0)
    assert torch.equal(cut, wav.clamp(-1, 1))


def test_rms_is_measured_on_the_mix_of_the_channels() -> None:
    left = tone(0.1)
    one_sided = torch.cat([left, torch.zeros_like(left)])
    levelled = normalize_audio(one_sided, strategy="rms", rms_headroom_db=20)
    assert rms(levelled.mean(dim=0)) == pytest.approx(0.1, rel=1e-5)
    assert rms(levelled) == pytest.approx(0.1 * math.sqrt(2), rel=1e-5)


def test_loudness_reaches_its_target_and_the_compressor_bends() -> None:
    wav = tone(0.05, 2 * RATE_HZ, channels=2)
    levelled = normalize_audio(
        wav, strategy="loudness", loudness_headroom_db=20, sample_rate=RATE_HZ
    )
    assert float(loudness(levelled, RATE_HZ)) == pytest.approx(-20, abs=0.05)
    bent = normalize_audio(
        wav, True, "loudness", 1, 18, -6, True, sample_rate=RATE_HZ, log_clipping=False
    )
    straight = normalize_loudness(wav, RATE_HZ, -6)
    assert float(straight.abs().max()) > 1
    torch.testing.assert_close(bent, torch.tanh(straight))


@pytest.mark.parametrize("strategy", ["peak", "rms", "loudness", "clip"])
def test_silence_stays_silence(strategy: str) -> None:
    silence = torch.zeros(2, RATE_HZ)
    assert torch.equal(normalize_audio(silence, True, strategy, sample_rate=RATE_HZ), silence)


def test_what_is_too_short_or_too_quiet_has_no_loudness() -> None:
    for wav in (tone(0.1, RATE_HZ // 3), tone(0.001)):
        assert torch.equal(normalize_loudness(wav, RATE_HZ), wav)


def test_samples_are_never_changed_in_place_and_clipping_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    wav = tone(3.0)
    before = wav.clone()
    with caplog.at_level(logging.WARNING):
        levelled = normalize_audio(
            wav, strategy="rms", rms_headroom_db=1, log_clipping=True, stem_name="loud"
        )
    assert torch.equal(wav, before)
    assert float(levelled.abs().max()) == 1
    assert "loud: " in caplog.text
    assert "% of the samples exceed full scale" in caplog.text


@pytest.mark.parametrize("kind", [ValueError, AssertionError])
def test_what_the_reference_asserts_is_both_kinds_of_error(kind: type[Exception]) -> None:
    with pytest.raises(kind, match="'louder' is unknown; choose peak"):
        normalize_audio(tone(0.1), strategy="louder")
    with pytest.raises(kind, match="needs sample_rate="):
        normalize_audio(tone(0.1), strategy="loudness")
    with pytest.raises(kind, match="its highest sample is 2"):
        normalize_audio(tone(2.0), strategy="none")
    assert torch.equal(normalize_audio(tone(0.5), strategy=""), tone(0.5))


def test_an_unknown_argument_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="normalize_audio\\(\\) knows no argument rate"):
        normalize_audio(tone(0.1), rate=3)
