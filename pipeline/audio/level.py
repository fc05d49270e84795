"""The level of a clip: AudioCraft's strategies under their names, and a true-peak ceiling."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.audio.measure import SILENCE_DBFS, after_gain, measure
from pipeline.audio.measures_table import AudioMeasures
from pipeline.audio.settings import AudioSettings, Normalize

NO_CEILING_DBTP = 20.0  # a `true_peak_dbtp` from which on nothing is turned down


@dataclass(frozen=True)
class Levelled:
    """A clip at the level that its file has. The last three are columns of `clips/`."""

    wav: NDArray[np.float32]  # [C, N]
    measures: AudioMeasures
    """What `wav` measures."""
    normalize_applied: Normalize
    """The strategy that was applied: `peak` where the clip has no loudness to go by."""
    gain_db: float
    """All gains together; 0 where the level is the model's own."""
    true_peak_limited: bool
    """Whether the ceiling turned the clip down further than the strategy alone."""


def to_level(
    wav: NDArray[np.float32], sample_rate_hz: int, made: AudioMeasures, settings: AudioSettings
) -> Levelled:
    """Brings one clip to its level.

    Args:
        wav: [C, N] samples as the model made them.
        made: What they measure.
        settings: Their `normalize` and the settings of that strategy.
    """
    applied, gain_db = _strategy(made, settings)
    if applied == "clip":
        highest = np.float32(_factor(-settings.peak_headroom_db))
        shaped = np.clip(wav, -highest, highest)  # [C, N]
        measures = _measured_again(shaped, sample_rate_hz, made)
    elif applied == "loudness" and settings.loudness_compressor:
        shaped = np.tanh(_amplified(wav, gain_db))
        measures = _measured_again(shaped, sample_rate_hz, made)
    else:
        shaped = _amplified(wav, gain_db)
        measures = after_gain(made, shaped, gain_db)
    over_db = measures.true_peak_dbtp - settings.true_peak_dbtp
    limited = over_db > 0.0 and settings.true_peak_dbtp < NO_CEILING_DBTP
    if limited:
        shaped = _amplified(shaped, -over_db)
        measures = after_gain(measures, shaped, -over_db)
        gain_db -= over_db
    return Levelled(shaped, measures, applied, gain_db, limited)


def _strategy(made: AudioMeasures, settings: AudioSettings) -> tuple[Normalize, float]:
    """The strategy that this clip can have, and its gain in dB."""
    strategy = settings.normalize
    if strategy in ("none", "clip"):
        return strategy, 0.0
    if made.peak_dbfs < SILENCE_DBFS:
        return "peak", 0.0  # no gain makes music of silence
    if strategy == "rms":
        return "rms", -settings.rms_headroom_db - made.rms_dbfs
    if strategy == "loudness" and made.loudness_lufs is not None:
        return "loudness", settings.target_lufs - made.loudness_lufs
    return "peak", -settings.peak_headroom_db - made.peak_dbfs


def _amplified(wav: NDArray[np.float32], gain_db: float) -> NDArray[np.float32]:
    """wav [C, N] times the gain, rounded once; 0 dB leaves the bits as they are."""
    if gain_db == 0.0:
        return wav
    louder = np.empty_like(wav)
    np.multiply(wav, _factor(gain_db), out=louder, dtype=np.float64, casting="same_kind")
    return louder


def _factor(gain_db: float) -> float:
    return float(10.0 ** (gain_db / 20.0))


def _measured_again(
    wav: NDArray[np.float32], sample_rate_hz: int, made: AudioMeasures
) -> AudioMeasures:
    """What a clip measures whose shape has changed; its silence is judged as it was made."""
    return replace(
        measure(wav, sample_rate_hz),
        silence_ratio=made.silence_ratio,
        early_silence_s=made.early_silence_s,
    )
