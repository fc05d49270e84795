"""Signals whose measurements are known."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.audio import loudness
from pipeline.audio import measure as measuring
from pipeline.audio.loudness import k_weighting
from pipeline.audio.measure import FLOOR_DBFS, after_gain, measure
from pipeline.audio.measures_table import AudioMeasures

RATE_HZ = 32_000
Wav = NDArray[np.float32]


def sine(amplitude: float, duration_s: float = 3.0, rate_hz: int = RATE_HZ, hz: float = 997) -> Wav:
    t = np.arange(round(duration_s * rate_hz)) / rate_hz
    return (amplitude * np.sin(2 * np.pi * hz * t)).astype(np.float32)[None]  # [1, N]


def noise(rms: float, duration_s: float = 3.0) -> Wav:
    rng = np.random.default_rng(0)
    return rng.normal(0, rms, (1, round(duration_s * RATE_HZ))).astype(np.float32)


# BS.1770-4 annex 1, table 1 and 2: the coefficients at 48 kHz.
def test_k_weighting_is_the_standards_table_at_48_khz() -> None:
    (shelf_b, shelf_a), (pass_b, pass_a) = k_weighting(48_000)
    assert shelf_b == pytest.approx([1.53512485958697, -2.69169618940638, 1.19839281085285])
    assert shelf_a == pytest.approx([1.0, -1.69065929318241, 0.73248077421585])
    assert pass_b == [1.0, -2.0, 1.0]
    assert pass_a == pytest.approx([1.0, -1.99004745483398, 0.99007225036621])


@pytest.mark.parametrize("rate_hz", [16_000, 24_000, 32_000, 44_100, 48_000])
@pytest.mark.parametrize("level_db", [0.0, -20.0, -40.0])
def test_a_997_hz_sine_has_its_level_minus_3_01_lufs(rate_hz: int, level_db: float) -> None:
    made = measure(sine(10 ** (level_db / 20), rate_hz=rate_hz), rate_hz)
    assert made.loudness_lufs == pytest.approx(level_db - 3.01, abs=0.05)
    assert made.rms_dbfs == pytest.approx(level_db - 3.01, abs=0.01)
    assert made.peak_dbfs == pytest.approx(level_db, abs=0.02)
    assert made.loudness_reason is None


def test_the_same_sine_on_both_channels_is_3_lu_louder() -> None:
    mono = sine(0.1)
    stereo = np.concatenate([mono, mono])  # [2, N]
    difference = _lufs(stereo) - _lufs(mono)
    assert difference == pytest.approx(3.01, abs=0.01)
    assert measure(stereo, RATE_HZ).rms_dbfs == pytest.approx(measure(mono, RATE_HZ).rms_dbfs)


def test_one_silent_channel_does_not_make_the_clip_silent() -> None:
    one_sided = np.concatenate([sine(0.1), np.zeros_like(sine(0.1))])
    assert measure(one_sided, RATE_HZ).silence_ratio == 0.0


def test_the_gates_leave_silence_and_quiet_passages_out_of_the_loudness() -> None:
    # EBU Tech 3341 test 3 in short: 10 s at -36, 60 s at -23, 10 s at -36 measure -23 LUFS.
    quiet, loud = sine(10 ** (-33 / 20), 4.0), sine(10 ** (-20 / 20), 24.0)
    silence = np.zeros((1, 4 * RATE_HZ), np.float32)
    assert _lufs(np.concatenate([quiet, loud, quiet], axis=1)) == pytest.approx(-23.0, abs=0.1)
    assert _lufs(np.concatenate([loud, silence], axis=1)) == pytest.approx(-23.0, abs=0.1)


def test_overshoot_is_measured_and_not_clamped() -> None:
    made = measure(sine(2.0), RATE_HZ)
    assert made.peak_dbfs == pytest.approx(6.02, abs=0.02)
    assert made.loudness_lufs == pytest.approx(3.01, abs=0.05)


def test_a_full_scale_square_is_clipped_all_over() -> None:
    square = np.sign(sine(1.0, hz=100.25) + 1e-9).astype(np.float32)
    made = measure(square, RATE_HZ)
    assert made.clip_ratio == 1.0
    assert made.rms_dbfs == pytest.approx(0.0, abs=1e-6)
    assert measure(0.99 * square, RATE_HZ).clip_ratio == 0.0


def test_clip_ratio_is_the_share_of_samples_at_full_scale() -> None:
    wav = np.full((1, 1000), 0.5, np.float32)
    wav[0, :10] = -1.0
    assert measure(wav, RATE_HZ).clip_ratio == pytest.approx(0.01)


@pytest.mark.parametrize("hz", [997, 4000, 8000, 12_000])
@pytest.mark.parametrize("n_samples", [RATE_HZ, 2**20 + 5000])  # the second takes two pieces
def test_true_peak_sees_between_the_samples(hz: int, n_samples: int) -> None:
    """A sine of amplitude 0.5 whose samples miss its top by up to 3 dB."""
    t = (np.arange(n_samples) + 0.5) / RATE_HZ
    fade = np.clip(np.minimum(t, t[::-1]) / 0.01, 0, 1)  # what is cut off rings
    wav = (0.5 * fade * np.sin(2 * np.pi * hz * t)).astype(np.float32)[None]

    made = measure(wav, RATE_HZ)

    assert made.true_peak_dbtp == pytest.approx(-6.02, abs=0.2)
    assert made.true_peak_dbtp >= made.peak_dbfs
    if hz == 8000:
        assert made.peak_dbfs == pytest.approx(-9.03, abs=0.01)


def test_true_peak_holds_the_ends() -> None:
    """A level that begins and ends at once has no ringing: no silence is imagined around it."""
    assert measure(np.full((1, 500), 0.5, np.float32), RATE_HZ).true_peak_dbtp == pytest.approx(
        -6.02, abs=0.01
    )


@pytest.mark.parametrize("gain_db", [-20.0, 12.0])
def test_what_a_gain_does_to_the_measures_need_not_be_measured(gain_db: float) -> None:
    wav = np.concatenate([sine(0.2) + 0.01, noise(0.05)])
    louder = (wav * 10 ** (gain_db / 20)).astype(np.float32)

    derived = dataclasses.asdict(after_gain(measure(wav, RATE_HZ), louder, gain_db))

    assert derived == pytest.approx(dataclasses.asdict(measure(louder, RATE_HZ)), abs=1e-4)


def test_silence_has_floors_and_a_reason_in_place_of_infinities() -> None:
    made = measure(np.zeros((2, 2 * RATE_HZ), np.float32), RATE_HZ)
    assert made.peak_dbfs == made.true_peak_dbtp == made.rms_dbfs == FLOOR_DBFS
    assert (made.loudness_lufs, made.loudness_reason) == (None, "silence")
    assert (made.silence_ratio, made.early_silence_s) == (1.0, 2.0)
    assert (made.clip_ratio, made.dc_offset, made.spectral_flatness) == (0.0, 0.0, 0.0)


def test_dc_is_the_signed_mean_of_the_worst_channel() -> None:
    wav = np.concatenate([sine(0.1) + 0.01, sine(0.1) - 0.25])
    assert measure(wav, RATE_HZ).dc_offset == pytest.approx(-0.25, abs=1e-4)


def test_constant_dc_is_inaudible_yet_finite() -> None:
    made = measure(np.full((1, RATE_HZ), 0.5, np.float32), RATE_HZ)
    assert made.dc_offset == pytest.approx(0.5)
    assert made.silence_ratio == 0.0
    _assert_finite(made)


def test_music_that_stops_early_shows_at_its_end_only() -> None:
    gap = np.zeros((1, RATE_HZ), np.float32)
    music = sine(0.2, 3.0)
    stops = measure(np.concatenate([music, gap], axis=1), RATE_HZ)
    assert (stops.early_silence_s, stops.silence_ratio) == (1.0, 0.25)
    starts_late = measure(np.concatenate([gap, music], axis=1), RATE_HZ)
    assert (starts_late.early_silence_s, starts_late.silence_ratio) == (0.0, 0.25)


def test_flatness_tells_noise_from_a_tone() -> None:
    assert measure(noise(0.1), RATE_HZ).spectral_flatness == pytest.approx(
        math.exp(-np.euler_gamma), abs=0.01
    )
    assert measure(sine(0.5), RATE_HZ).spectral_flatness < 1e-4


def test_flatness_ignores_silent_frames() -> None:
    tail = np.zeros((1, 10 * RATE_HZ), np.float32)
    flatness = measure(np.concatenate([noise(0.1), tail], axis=1), RATE_HZ).spectral_flatness
    assert flatness == pytest.approx(0.56, abs=0.02)


@pytest.mark.parametrize("n_samples", [1, 2, 320, 640, 3200, 12_799])
def test_under_0_4_s_loudness_is_null_and_the_rest_is_measured(n_samples: int) -> None:
    made = measure(sine(0.5)[:, 7 : 7 + n_samples], RATE_HZ)
    assert made.loudness_lufs is None
    assert made.loudness_reason == "shorter than 0.4 s"
    assert made.peak_dbfs > -25.0
    _assert_finite(made)


def test_0_4_s_is_enough_for_a_loudness() -> None:
    assert _lufs(sine(0.1, 0.4)) == pytest.approx(-23.0, abs=0.1)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_audio_is_an_error_that_counts(bad: float) -> None:
    wav = sine(0.5)
    wav[0, [3, 5]] = bad
    with pytest.raises(ValueError, match="2 NaN or infinite samples of 96000"):
        measure(wav, RATE_HZ)


@pytest.mark.parametrize("shape", [(0,), (1, 0), (16_000,)])
def test_wrong_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\[channels, samples\]"):
        measure(np.zeros(shape, np.float32), RATE_HZ)


def test_a_long_clip_is_measured_in_pieces_to_the_same_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gap = np.zeros((1, RATE_HZ), np.float32)
    wav = np.concatenate([noise(0.1), gap, sine(0.5) + 0.01, gap[:, :1000]], axis=1)
    stereo = np.concatenate([wav, wav[:, ::-1]])
    whole = dataclasses.asdict(measure(stereo, RATE_HZ))

    monkeypatch.setattr(loudness, "BLOCKS_AT_ONCE", 3)
    monkeypatch.setattr(measuring, "WINDOWS_AT_ONCE", 5)
    monkeypatch.setattr(measuring, "FRAMES_AT_ONCE", 7)

    in_pieces = dataclasses.asdict(measure(stereo, RATE_HZ))
    assert in_pieces.pop("loudness_reason") is whole.pop("loudness_reason") is None
    assert in_pieces == pytest.approx(whole, rel=1e-7)


def _lufs(wav: Wav) -> float:
    lufs = measure(wav, RATE_HZ).loudness_lufs
    assert lufs is not None
    return lufs


def _assert_finite(made: AudioMeasures) -> None:
    for name, value in dataclasses.asdict(made).items():
        assert value is None or isinstance(value, str) or math.isfinite(value), name
