"""Pictures of audio, drawn with numpy alone: waveforms as SVG paths, spectrograms as PNG.

Pages stretch every picture to its place. Therefore coordinates are percentages, and no picture
holds text.
"""

from __future__ import annotations

import itertools
import struct
import zlib

import numpy as np
from numpy.typing import NDArray

N_FFT = 2048
LOWEST_HZ = 40.0
WAVE_COLUMNS = 220
RANGE_DB = 80.0  # levels this far below the loudest one are black

_PALETTE_ANCHORS = [
    (8, 6, 20), (28, 16, 68), (79, 18, 123), (129, 37, 129), (181, 54, 122),
    (229, 80, 100), (251, 135, 97), (254, 194, 135), (252, 253, 191),
]  # fmt: skip


def waveform_path(wav: NDArray[np.float32]) -> str:
    """SVG path of the envelope of wav [C, N] in a box WAVE_COLUMNS wide, -100..100 high.

    Each column shows the lowest and highest sample of any channel, on a square-root scale so that
    -30 dB can still be seen. Silence is a hairline.
    """
    starts = np.arange(WAVE_COLUMNS) * wav.shape[1] // WAVE_COLUMNS
    high = np.maximum.reduceat(wav.max(axis=0), starts)  # [WAVE_COLUMNS]
    low = np.minimum.reduceat(wav.min(axis=0), starts)
    top = -np.rint(100 * np.sqrt(np.clip(high, 1e-4, 1))).astype(int)
    bottom = np.rint(100 * np.sqrt(np.clip(-low, 1e-4, 1))).astype(int)
    return "M" + "".join(
        f"{x} {t}V{b}M" for x, (t, b) in enumerate(zip(top, bottom, strict=True))
    ).removesuffix("M")


def spectrogram_png(
    wav: NDArray[np.float32], sample_rate_hz: int, width: int = 440, height: int = 110
) -> bytes:
    """Spectrogram of the mean of wav's channels: time to the right, log frequency upwards."""
    mono = wav.astype(np.float64).mean(axis=0)  # [N]
    centres = ((np.arange(width) + 0.5) * mono.size / width).astype(int)
    padded = np.pad(mono, N_FFT // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, N_FFT)[centres]  # [width, N_FFT]
    power = np.abs(np.fft.rfft(frames * np.hanning(N_FFT), axis=1)) ** 2  # [width, bins]
    level_db = 10.0 * np.log10(power + 1e-9).T  # [bins, width]
    rows = _log_frequency(level_db, sample_rate_hz, height)
    top_db = max(float(rows.max()), 0.0)  # so that hiss under silence is not blown up
    shade = np.clip((rows - top_db + RANGE_DB) / RANGE_DB, 0.0, 1.0)
    return png(np.rint(shade * 255).astype(np.uint8))


def _log_frequency(
    level_db: NDArray[np.float64], sample_rate_hz: int, height: int
) -> NDArray[np.float64]:
    """Resamples FFT bins [bins, T] to `height` rows, the highest frequency first."""
    edges_hz = np.geomspace(sample_rate_hz / 2, LOWEST_HZ, height + 1)
    edges = edges_hz * N_FFT / sample_rate_hz
    picked = []
    for upper, lower in itertools.pairwise(edges):
        if upper - lower >= 1.0:  # several bins in one row: the loudest shows
            picked.append(level_db[int(np.ceil(lower)) : int(upper) + 1].max(axis=0))
            continue
        below = min(int((upper + lower) / 2), level_db.shape[0] - 2)
        part = (upper + lower) / 2 - below
        picked.append(level_db[below] * (1 - part) + level_db[below + 1] * part)
    return np.stack(picked)  # [height, T]


def png(shades: NDArray[np.uint8]) -> bytes:
    """A palette PNG of shades [height, width], 0 dark to 255 bright."""
    height, width = shades.shape
    anchors = np.array(_PALETTE_ANCHORS)
    at = np.linspace(0, 255, len(anchors))
    palette = np.stack([np.interp(np.arange(256), at, c) for c in anchors.T], axis=1)
    scanlines = np.pad(shades, ((0, 0), (1, 0)))  # [height, 1 + width], filter type 0 each
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in (
            (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
            (b"PLTE", np.rint(palette).astype(np.uint8).tobytes()),
            (b"IDAT", zlib.compress(scanlines.tobytes(), 9)),
            (b"IEND", b""),
        )
    )
