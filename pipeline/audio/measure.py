"""What a clip measures: level, BS.1770 loudness and true peak, silence, clipping, offset, noise.

`measures_table` says what each measure is. Nothing here is infinite or NaN: levels stop at
`FLOOR_DBFS`, and a loudness that does not exist is null with a reason.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pipeline.audio.loudness import integrated_loudness, true_peak
from pipeline.audio.measures_table import AudioMeasures

FLOOR_DBFS = -120.0  # digital silence, in place of minus infinity
SILENCE_DBFS = -60.0  # a window whose RMS is below this counts as silence
SILENCE_WINDOW_S = 0.02
CLIP_LEVEL = 1.0 - 2.0**-15  # the largest value that 16 bits can hold

N_FFT = 2048
HOP = 1024
# An hour of audio is not copied whole.
FRAMES_AT_ONCE = 1024
WINDOWS_AT_ONCE = 4096


class NotFiniteError(ValueError):
    """The audio holds NaN or infinite samples."""


def measure(wav: NDArray[np.float32], sample_rate_hz: int) -> AudioMeasures:
    """Measures one clip.

    Args:
        wav: [C, N] samples, 1.0 = full scale; may overshoot, must be finite.
        sample_rate_hz: Rate of `wav`.

    Raises:
        NotFiniteError: The audio holds NaN or infinite samples.
        ValueError: The audio is empty or has another shape.
    """
    if wav.ndim != 2 or wav.size == 0:
        raise ValueError(f"audio must be [channels, samples] and not empty, got {wav.shape}")
    n_bad = int(wav.size - np.count_nonzero(np.isfinite(wav)))
    if n_bad:
        raise NotFiniteError(
            f"audio holds {n_bad} NaN or infinite samples of {wav.size}: "
            "the model or codec diverged; try another seed, or dtype fp32"
        )
    means = wav.mean(axis=1, dtype=np.float64)  # [C]
    energies = _window_energies(wav, max(1, round(SILENCE_WINDOW_S * sample_rate_hz)))  # [C, W]
    lufs, reason = integrated_loudness(wav, sample_rate_hz)
    silence_ratio, early_silence_s = _silence(energies, wav.shape[1], sample_rate_hz)
    peak = _peak(wav)
    return AudioMeasures(
        peak_dbfs=_dbfs(peak),
        true_peak_dbtp=_dbfs(true_peak(wav, peak)),
        rms_dbfs=_dbfs(math.sqrt(float(energies.sum()) / wav.size)),
        loudness_lufs=lufs,
        loudness_reason=reason,
        silence_ratio=silence_ratio,
        early_silence_s=early_silence_s,
        clip_ratio=_clip_ratio(wav),
        dc_offset=float(means[np.argmax(np.abs(means))]),
        spectral_flatness=_spectral_flatness(wav),
    )


def after_gain(measures: AudioMeasures, wav: NDArray[np.float32], gain_db: float) -> AudioMeasures:
    """What a clip measures after a gain, without measuring it all again.

    Silence and flatness stay: a gain makes no music of silence.

    Args:
        measures: What it measured before.
        wav: [C, N] the samples after the gain.
        gain_db: The gain.
    """

    def level(db: float) -> float:
        return max(db + gain_db, FLOOR_DBFS) if db > FLOOR_DBFS else db

    lufs = measures.loudness_lufs
    return replace(
        measures,
        peak_dbfs=_dbfs(_peak(wav)),
        true_peak_dbtp=level(measures.true_peak_dbtp),
        rms_dbfs=level(measures.rms_dbfs),
        loudness_lufs=None if lufs is None else lufs + gain_db,
        clip_ratio=_clip_ratio(wav),
        dc_offset=measures.dc_offset * 10.0 ** (gain_db / 20.0),
    )


def _dbfs(amplitude: float) -> float:
    return max(20.0 * math.log10(amplitude), FLOOR_DBFS) if amplitude > 0.0 else FLOOR_DBFS


def _peak(wav: NDArray[np.float32]) -> float:
    return max(float(wav.max()), -float(wav.min()))


def _clip_ratio(wav: NDArray[np.float32]) -> float:
    n_beyond = np.count_nonzero(wav >= CLIP_LEVEL) + np.count_nonzero(wav <= -CLIP_LEVEL)
    return float(n_beyond / wav.size)


def _window_energies(wav: NDArray[np.float32], window: int) -> NDArray[np.float64]:
    """Sum of squares [C, W] of each window of wav [C, N]; the last one may be short."""
    step = WINDOWS_AT_ONCE * window
    found = []
    for start in range(0, wav.shape[1], step):
        squares = np.square(wav[:, start : start + step], dtype=np.float64)
        found.append(np.add.reduceat(squares, np.arange(0, squares.shape[1], window), axis=1))
    return np.concatenate(found, axis=1)


def _silence(
    energies: NDArray[np.float64], n_samples: int, sample_rate_hz: int
) -> tuple[float, float]:
    """Share of silent windows [C, W], and seconds of silence at the end."""
    window = max(1, round(SILENCE_WINDOW_S * sample_rate_hz))
    starts = np.arange(0, n_samples, window)  # [W]
    lengths = np.minimum(starts + window, n_samples) - starts  # [W]
    power = energies / lengths  # [C, W]
    loud = np.flatnonzero(power.max(axis=0) >= 10.0 ** (SILENCE_DBFS / 10.0))
    end_of_music = int(starts[loud[-1]] + lengths[loud[-1]]) if loud.size else 0
    return 1.0 - loud.size / starts.size, (n_samples - end_of_music) / sample_rate_hz


def _spectral_flatness(wav: NDArray[np.float32]) -> float:
    mono = wav.mean(axis=0)  # [N]
    padded = np.pad(mono, (0, max(0, N_FFT - mono.size)))
    frames = np.lib.stride_tricks.sliding_window_view(padded, N_FFT)[::HOP]  # [F, N_FFT], a view
    window = np.hanning(N_FFT + 1)[:-1].astype(np.float32)
    total, n_loud = 0.0, 0
    for start in range(0, len(frames), FRAMES_AT_ONCE):
        some = frames[start : start + FRAMES_AT_ONCE]
        loud = some[np.mean(some**2, axis=1) >= 10.0 ** (SILENCE_DBFS / 10.0)]
        spectrum = np.fft.rfft(loud * window, axis=1)
        power = np.maximum(np.abs(spectrum[:, 1:]) ** 2, 1e-10)  # [F, N_FFT/2], without the offset
        flatness = np.exp(np.log(power).mean(axis=1)) / power.mean(axis=1)  # [F]
        total, n_loud = total + float(flatness.sum()), n_loud + len(loud)
    return total / n_loud if n_loud else 0.0
