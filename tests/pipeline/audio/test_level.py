"""Levels on signals whose answer is known."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.audio.level import Levelled, to_level
from pipeline.audio.measure import measure
from pipeline.audio.settings import AudioSettings
from tests.pipeline.audio.test_measure import RATE_HZ, noise, sine

Wav = NDArray[np.float32]
SILENCE = np.zeros((1, RATE_HZ), np.float32)


def levelled(wav: Wav, **settings: Any) -> Levelled:
    """`wav` at its level; without a ceiling unless one is given."""
    told = AudioSettings.model_validate({"true_peak_dbtp": 20} | settings)
    return to_level(wav, RATE_HZ, measure(wav, RATE_HZ), told)


def test_by_default_the_samples_are_the_models_own() -> None:
    wav = sine(0.3)
    done = to_level(wav, RATE_HZ, measure(wav, RATE_HZ), AudioSettings())
    assert done.wav is wav
    assert (done.normalize_applied, done.gain_db, done.true_peak_limited) == ("none", 0.0, False)
    assert done.measures == measure(wav, RATE_HZ)


def test_by_default_what_would_be_cut_off_is_turned_down() -> None:
    wav = sine(2.0)
    done = to_level(wav, RATE_HZ, measure(wav, RATE_HZ), AudioSettings())
    assert (done.normalize_applied, done.true_peak_limited) == ("none", True)
    assert done.gain_db == pytest.approx(-6.02, abs=0.02)
    assert np.abs(done.wav).max() <= 1.0
    np.testing.assert_allclose(done.wav, wav / 2, atol=2e-3)  # turned down, not bent


@pytest.mark.parametrize(
    ("settings", "measure_name", "expected", "gain_db"),
    [
        ({"normalize": "peak"}, "peak_dbfs", -1.0, 19.0),
        ({"normalize": "peak", "peak_headroom_db": 6}, "peak_dbfs", -6.0, 14.0),
        ({"normalize": "rms"}, "rms_dbfs", -18.0, 5.01),
        ({"normalize": "rms", "rms_headroom_db": 30}, "rms_dbfs", -30.0, -6.99),
        ({"normalize": "loudness"}, "loudness_lufs", -14.0, 9.01),
        ({"normalize": "loudness", "target_lufs": -23}, "loudness_lufs", -23.0, 0.01),
    ],
)
def test_a_sine_of_minus_20_db_reaches_its_target(
    settings: dict[str, Any], measure_name: str, expected: float, gain_db: float
) -> None:
    """997 Hz: peak -20 dBFS, RMS and loudness -23.01."""
    done = levelled(sine(0.1), **settings)

    assert getattr(measure(done.wav, RATE_HZ), measure_name) == pytest.approx(expected, abs=0.01)
    assert getattr(done.measures, measure_name) == pytest.approx(expected, abs=0.01)
    assert done.gain_db == pytest.approx(gain_db, abs=0.03)
    assert (done.normalize_applied, done.true_peak_limited) == (settings["normalize"], False)


def test_channels_that_cancel_each_other_are_not_turned_up() -> None:
    """The reference measures the mono mix, which is near silence here."""
    one = sine(0.1)[:1]
    done = levelled(np.concatenate([one, -0.999 * one]), normalize="rms")
    assert done.measures.rms_dbfs == pytest.approx(-18.0, abs=0.01)
    assert done.gain_db == pytest.approx(5.01, abs=0.03)


def test_clip_cuts_off_at_the_headroom_and_leaves_the_rest() -> None:
    wav = sine(2.0)
    done = levelled(wav, normalize="clip")
    top = np.float32(10 ** (-1 / 20))
    np.testing.assert_array_equal(done.wav, np.clip(wav, -top, top))
    assert (done.gain_db, done.normalize_applied) == (0.0, "clip")
    assert done.measures.peak_dbfs == pytest.approx(-1.0, abs=1e-5)
    assert done.measures.rms_dbfs == measure(done.wav, RATE_HZ).rms_dbfs


def test_the_compressor_bends_what_exceeds_full_scale() -> None:
    wav = noise(0.05)
    loud = levelled(wav, normalize="loudness", target_lufs=-6)
    bent = levelled(wav, normalize="loudness", target_lufs=-6, loudness_compressor=True)
    assert np.abs(loud.wav).max() > 1.0 > np.abs(bent.wav).max()
    np.testing.assert_array_equal(bent.wav, np.tanh(loud.wav))
    assert bent.measures.loudness_lufs == measure(bent.wav, RATE_HZ).loudness_lufs


@pytest.mark.parametrize("strategy", ["none", "clip", "peak", "rms", "loudness"])
def test_the_ceiling_holds_between_the_samples_too(strategy: str) -> None:
    t = (np.arange(RATE_HZ) + 0.5) / RATE_HZ
    wav = np.sin(2 * np.pi * 8000 * t).astype(np.float32)[None]  # samples 3 dB below its top
    settings = {"rms_headroom_db": 1, "target_lufs": 0, "peak_headroom_db": 0}

    done = levelled(wav, normalize=strategy, true_peak_dbtp=-2, **settings)

    assert done.true_peak_limited
    assert measure(done.wav, RATE_HZ).true_peak_dbtp == pytest.approx(-2.0, abs=1e-3)
    assert done.measures.true_peak_dbtp == pytest.approx(-2.0, abs=1e-6)
    free = levelled(wav, normalize=strategy, **settings)
    assert not free.true_peak_limited
    assert free.gain_db > done.gain_db


def test_0_1_s_has_no_loudness_and_falls_back_to_peak() -> None:
    done = levelled(sine(0.1, 0.1), normalize="loudness")
    assert (done.normalize_applied, done.measures.loudness_lufs) == ("peak", None)
    assert done.measures.loudness_reason == "shorter than 0.4 s"
    assert done.measures.peak_dbfs == pytest.approx(-1.0, abs=1e-5)


@pytest.mark.parametrize("strategy", ["peak", "rms", "loudness"])
@pytest.mark.parametrize("amplitude", [0.0, 0.0005])
def test_silence_stays_silence(strategy: str, amplitude: float) -> None:
    """Neither NaN from a division by nothing, nor noise of -66 dBFS at full scale."""
    wav = SILENCE + np.float32(amplitude)
    done = levelled(wav, normalize=strategy)
    assert done.wav is wav
    assert (done.normalize_applied, done.gain_db) == ("peak", 0.0)
    assert done.measures.silence_ratio == 1.0


def test_a_gain_makes_no_music_of_a_silent_end() -> None:
    """The end is at -70 dBFS, and at -51 after the gain."""
    wav = np.concatenate([sine(0.1, 1.0), np.float32(10 ** (-70 / 20)) + SILENCE], axis=1)
    done = levelled(wav, normalize="peak")
    assert done.gain_db == pytest.approx(19.0, abs=0.01)
    assert (done.measures.early_silence_s, done.measures.silence_ratio) == (1.0, 0.5)


@pytest.mark.parametrize("strategy", ["none", "clip", "peak", "rms", "loudness"])
def test_the_same_samples_give_the_same_bits(strategy: str) -> None:
    wav = np.concatenate([noise(0.3), sine(1.2)])
    settings = {"normalize": strategy, "true_peak_dbtp": -1}
    assert levelled(wav, **settings).wav.tobytes() == levelled(wav, **settings).wav.tobytes()
