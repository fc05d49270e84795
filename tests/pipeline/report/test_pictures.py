"""Pictures whose content is known."""

from __future__ import annotations

import re
import struct
import zlib

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.report.pictures import (
    LOWEST_HZ,
    WAVE_COLUMNS,
    histogram,
    png,
    spectrogram_png,
    timeline,
    waveform_path,
)

RATE_HZ = 16_000


def sine(hz: float, duration_s: float = 1.0, amplitude: float = 0.5) -> NDArray[np.float32]:
    t = np.arange(round(duration_s * RATE_HZ)) / RATE_HZ
    return (amplitude * np.sin(2 * np.pi * hz * t)).astype(np.float32)[None]


def shades(data: bytes) -> NDArray[np.uint8]:
    """Decodes one of our PNGs (palette, filter 0), checking every checksum on the way."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, chunks = 8, {}
    while at < len(data):
        size = struct.unpack(">I", data[at : at + 4])[0]
        name, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        assert struct.unpack(">I", data[at + 8 + size : at + 12 + size])[0] == zlib.crc32(
            name + body
        )
        chunks[name] = body
        at += 12 + size
    width, height, depth, kind = struct.unpack(">IIBB", chunks[b"IHDR"][:10])
    assert (depth, kind, len(chunks[b"PLTE"])) == (8, 3, 768)
    lines = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, width + 1)
    assert not lines[:, 0].any()
    return lines[:, 1:]


def columns(path: str) -> NDArray[np.int64]:
    """(x, top, bottom) of every stroke of a waveform path."""
    return np.array(re.findall(r"M(\d+) (-?\d+)V(-?\d+)", path), dtype=np.int64)


def test_png_holds_the_pixels_it_was_given() -> None:
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    np.testing.assert_array_equal(shades(png(pixels)), pixels)


@pytest.mark.parametrize("hz", [100.0, 440.0, 1000.0, 4000.0, 7000.0])
def test_a_sine_is_the_brightest_row_at_its_frequency(hz: float) -> None:
    height = 110
    picture = shades(spectrogram_png(sine(hz), RATE_HZ, 100, height))
    brightest = int(np.argmax(picture[:, 50]))
    octaves = np.log2(RATE_HZ / 2 / LOWEST_HZ)
    expected = np.log2(RATE_HZ / 2 / hz) / octaves * height
    assert brightest == pytest.approx(expected, abs=4)


def test_the_spectrogram_shows_when() -> None:
    wav = np.concatenate([np.zeros((1, RATE_HZ), np.float32), sine(1000)], axis=1)
    picture = shades(spectrogram_png(wav, RATE_HZ, 100, 50))
    assert picture[:, :40].max() == 0
    assert picture[:, 60:].max(axis=0).min() > 200


@pytest.mark.parametrize("n_samples", [1, 2, 320, 16_000])
@pytest.mark.parametrize("n_channels", [1, 2])
def test_any_length_fills_both_pictures(n_samples: int, n_channels: int) -> None:
    wav = np.full((n_channels, n_samples), 0.1, np.float32)
    assert shades(spectrogram_png(wav, RATE_HZ)).shape == (110, 440)
    np.testing.assert_array_equal(columns(waveform_path(wav))[:, 0], np.arange(WAVE_COLUMNS))


def test_silence_is_dark_and_a_hairline() -> None:
    silence = np.zeros((1, 8000), np.float32)
    assert shades(spectrogram_png(silence, RATE_HZ)).max() == 0
    np.testing.assert_array_equal(columns(waveform_path(silence))[:, 1:], [[-1, 1]] * WAVE_COLUMNS)


def test_the_waveform_is_the_envelope_on_a_square_root_scale() -> None:
    wav = np.concatenate([sine(1000, amplitude=1.0), sine(1000, amplitude=0.25)], axis=1)
    strokes = columns(waveform_path(wav))
    assert strokes[50, 1:].tolist() == [-100, 100]
    assert strokes[-50, 1:].tolist() == [-50, 50]


def test_beyond_full_scale_stays_in_the_box() -> None:
    assert columns(waveform_path(sine(100, amplitude=9.0)))[:, 1].min() == -100


def test_the_louder_channel_shows() -> None:
    wav = np.concatenate([np.zeros((1, RATE_HZ), np.float32), sine(1000, amplitude=1.0)])
    assert columns(waveform_path(wav))[100, 2] == 100


def test_histogram_counts_every_finite_value() -> None:
    shape = histogram(np.array([0.0, 0.0, 5.0, 10.0, np.nan, np.inf]), bins=10)
    assert shape is not None
    assert shape.counts == (2, 0, 0, 0, 0, 1, 0, 0, 0, 1)
    assert (shape.edges[0], shape.edges[-1], shape.median) == (0.0, 10.0, 2.5)
    assert shape.heights[0] == 100.0
    assert shape.heights[1] == 0.0


def test_histogram_of_one_value_is_one_bar_in_the_middle() -> None:
    shape = histogram(np.full(1000, -16.5))
    assert shape is not None
    assert shape.constant
    assert shape.counts == (0, 1000, 0)


def test_outliers_do_not_squeeze_a_large_histogram_and_still_count() -> None:
    values = np.concatenate([np.linspace(0, 1, 1000), [1e6, -1e6]])
    shape = histogram(values)
    assert shape is not None
    assert (sum(shape.counts), shape.below > 0, shape.above > 0) == (1002, True, True)
    assert shape.edges[-1] < 2


def test_histogram_of_nothing_is_none() -> None:
    assert histogram(np.array([])) is None
    assert histogram(np.array([np.nan])) is None


def test_timeline_sets_runs_side_by_side_and_leaves_out_the_time_between() -> None:
    day = 86_400.0
    created = np.array([10.0, 20.0, day + 5, day + 10])
    line = timeline(created, np.full(4, 30.0), np.array(["a", "a", "b", "b"]), {"a": 0.0, "b": day})
    assert line is not None
    assert line.total_s == 30.0
    assert [(s.run_id, round(s.left, 1), round(s.width, 1)) for s in line.spans] == [
        ("a", 0.0, 66.7),
        ("b", 66.7, 33.3),
    ]
    assert [round(s.startup, 1) for s in line.spans] == [33.3, 16.7]  # 10 s and 5 s of 30
    slice_s = line.total_s / len(line.speeds)
    assert sum(line.speeds) * slice_s == pytest.approx(120.0)


def test_timeline_without_run_records_starts_at_the_first_clip() -> None:
    line = timeline(np.array([100.0, 160.0]), np.ones(2), np.array(["a", "a"]), {})
    assert line is not None
    assert line.total_s == 60.0


def test_timeline_of_one_moment_and_of_nothing() -> None:
    line = timeline(np.array([5.0]), np.array([2.0]), np.array(["a"]), {})
    assert line is not None
    assert line.total_s == 1.0
    assert max(line.speed_heights) == 100.0
    assert timeline(np.array([]), np.array([]), np.array([], dtype=np.str_), {}) is None


@pytest.mark.parametrize("n", [3, 5000])
def test_growth_ends_at_the_top(n: int) -> None:
    created = np.linspace(0, 50, n)
    line = timeline(created, np.ones(n), np.full(n, "a"), {"a": 0.0})
    assert line is not None
    numbers = [float(v) for v in re.findall(r"-?[\d.]+", line.growth_path)]
    assert min(numbers) == 0.0
    assert max(numbers) == 100.0
    assert len(line.growth_path) < 6000
