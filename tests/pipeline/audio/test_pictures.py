"""Pictures whose content is known."""

from __future__ import annotations

import re
import struct
import zlib

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.audio.pictures import (
    LOWEST_HZ,
    WAVE_COLUMNS,
    png,
    spectrogram_png,
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
