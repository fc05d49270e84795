"""Quality limits on signals that are beyond them, and on those that are not."""

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from pipeline.audio.limits import QualityLimits
from pipeline.audio.measure import Quality, measure
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
    made = asdict(measure(wav, RATE_HZ))
    (failed,) = QualityLimits(**{name: limit}).failed(made)
    assert failed.startswith(said)
    assert QualityLimits().failed(made) == []


def test_music_passes_limits_that_make_sense() -> None:
    limits: dict[str, Any] = {name: limit for name, limit, *_ in BEYOND}
    assert QualityLimits(**limits).failed(asdict(measure(sine(0.3), RATE_HZ))) == []


def test_what_equals_its_limit_passes() -> None:
    made = asdict(measure(STOPS, RATE_HZ))
    assert QualityLimits(max_early_silence_s=2.0).failed(made) == []


def test_a_clip_too_short_for_a_loudness_is_neither_quiet_nor_loud() -> None:
    made = asdict(measure(sine(0.001, 0.1), RATE_HZ))
    assert QualityLimits(min_loudness_lufs=-40, max_loudness_lufs=-6).failed(made) == []


def test_every_limit_names_a_measure_and_every_limit_is_tested() -> None:
    for name in QualityLimits.model_fields:
        assert name.partition("_")[2] in Quality.__dataclass_fields__
    assert {name for name, *_ in BEYOND} == set(QualityLimits.model_fields)
