"""Quality limits on signals that are beyond them, and on those that are not."""

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from pipeline.audio.limits import QualityLimits
from pipeline.audio.measure import measure
from pipeline.audio.measures_table import MEASURES
from tests.pipeline.audio.test_measure import RATE_HZ, Wav, noise, sine

SILENCE = np.zeros((1, RATE_HZ), np.float32)
SQUARE = np.sign(sine(1.0, hz=100.25) + 1e-9).astype(np.float32)
STOPS = np.concatenate([sine(0.2, 1.0), SILENCE, SILENCE], axis=1)

BEYOND = [
    ("max_silence_ratio", 0.5, STOPS, "silence_ratio 0.6667 (qc.max_silence_ratio 0.5)"),
    ("max_early_silence_s", 1.5, STOPS, "early_silence_s 2 (qc.max_early_silence_s 1.5)"),
    ("max_clip_ratio", 0.01, SQUARE, "clip_ratio 1 (qc.max_clip_ratio 0.01)"),
    ("max_dc_offset", 0.1, sine(0.1) - np.float32(0.3), "dc_offset -0.3 (qc.max_dc_offset 0.1)"),
    ("min_rms_dbfs", -40, sine(0.001), "rms_dbfs -63.01 (qc.min_rms_dbfs -40)"),
    ("min_loudness_lufs", -40, sine(0.001), "loudness_lufs -63"),
    ("min_loudness_lufs", -40, SILENCE, "loudness_lufs is null for silence (qc.min_loudness_lufs"),
    ("max_loudness_lufs", -6, sine(1.0), "loudness_lufs -2.996"),
    ("max_true_peak_dbtp", 3, sine(2.0), "true_peak_dbtp 6.02"),
    ("max_spectral_flatness", 0.4, noise(0.1), "spectral_flatness 0.56"),
]


@pytest.mark.parametrize(("name", "limit", "wav", "said"), BEYOND)
def test_a_clip_beyond_a_limit_fails_with_value_and_limit(
    name: str, limit: float, wav: Wav, said: str
) -> None:
    made = measure(wav, RATE_HZ)
    (failed,) = QualityLimits(**{name: limit}).failed(made)
    assert failed.startswith(said)
    assert QualityLimits().failed(made) == []


def test_music_passes_limits_that_make_sense() -> None:
    limits: dict[str, Any] = {name: limit for name, limit, *_ in BEYOND}
    assert QualityLimits(**limits).failed(measure(sine(0.3), RATE_HZ)) == []


def test_what_equals_its_limit_passes() -> None:
    made = measure(STOPS, RATE_HZ)
    assert QualityLimits(max_early_silence_s=2.0).failed(made) == []


def test_a_clip_too_short_for_a_loudness_is_neither_quiet_nor_loud() -> None:
    made = measure(sine(0.001, 0.1), RATE_HZ)
    assert QualityLimits(min_loudness_lufs=-40, max_loudness_lufs=-6).failed(made) == []


def test_limits_that_no_clip_could_meet_are_refused() -> None:
    with pytest.raises(ValidationError, match="min_loudness_lufs=-5 is not below max_loudness_luf"):
        QualityLimits(min_loudness_lufs=-5, max_loudness_lufs=-9)


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_silence_ratio", 1.5), ("min_rms_dbfs", 1), ("max_clip_ratio", float("nan"))],
)
def test_a_limit_that_means_nothing_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValidationError, match=name):
        QualityLimits(**{name: value})


def test_several_broken_limits_are_named_in_the_order_of_the_measures() -> None:
    limits: dict[str, Any] = {"max_true_peak_dbtp": -90, "min_rms_dbfs": 0, "max_silence_ratio": 0}
    failed = QualityLimits(**limits).failed(measure(STOPS, RATE_HZ))
    assert [text.split()[0] for text in failed] == ["silence_ratio", "rms_dbfs", "true_peak_dbtp"]


def test_every_limit_is_named_after_its_measure_and_tested() -> None:
    named = [limit.name(name) for name, measure in MEASURES.items() for limit in measure.limits]
    assert named == list(QualityLimits.model_fields)
    assert {name for name, *_ in BEYOND} == set(named)
