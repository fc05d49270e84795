"""Pictures for the report, drawn with numpy alone: waveforms and bars as SVG, spectrograms as PNG.

The page stretches every picture to its place. Therefore coordinates are percentages, and no picture
holds text.
"""

from __future__ import annotations

import itertools
import struct
import zlib
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Histogram:
    """Counts between edges; the outer bins also hold what lies beyond them."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    median: float
    below: int
    """Values under the first edge, counted in the first bin."""
    above: int
    constant: bool
    """All values are one: a single bar in the middle."""

    @property
    def heights(self) -> list[float]:
        """Bars in percent; the smallest bar that holds anything can still be seen."""
        top = max(self.counts)
        return [max(4.0, 100.0 * n / top) if n else 0.0 for n in self.counts]


def histogram(values: NDArray[np.float64], bins: int = 24) -> Histogram | None:
    """Histogram of the finite values, or None where there are none.

    With many values the outermost 0.5 % on each side do not set the range.
    """
    values = values[np.isfinite(values)]
    if values.size == 0:
        return None
    low, high = float(values.min()), float(values.max())
    if values.size >= 200:
        low, high = (float(q) for q in np.quantile(values, [0.005, 0.995]))
    constant = high - low < 1e-9 * max(1.0, abs(low))
    if constant:
        half = max(abs(low) * 0.1, 1e-3)
        low, high, bins = low - half, high + half, 3
    counts, edges = np.histogram(np.clip(values, low, high), bins=bins, range=(low, high))
    return Histogram(
        edges=tuple(float(e) for e in edges),
        counts=tuple(int(n) for n in counts),
        median=float(np.median(values)),
        below=int(np.count_nonzero(values < low)),
        above=int(np.count_nonzero(values > high)),
        constant=constant,
    )


@dataclass(frozen=True)
class Span:
    """One run on the time axis of the report, in percent of its width."""

    run_id: str
    left: float
    width: float
    startup: float = 0.0
    """Of its width, until the first clip."""


@dataclass(frozen=True)
class Timeline:
    """Commits over working time. Runs follow one another without the time between them."""

    spans: tuple[Span, ...]
    growth_path: str
    """SVG area of the number of clips so far, in a box of 100 x 100."""
    speeds: tuple[float, ...]
    """Audio-seconds per second in equal slices of the axis."""
    total_s: float

    @property
    def speed_heights(self) -> list[float]:
        top = max(self.speeds) or 1.0
        return [100.0 * speed / top for speed in self.speeds]


def timeline(
    created_s: NDArray[np.float64],
    audio_s: NDArray[np.float64],
    run_ids: NDArray[np.str_],
    started_s: dict[str, float],
) -> Timeline | None:
    """Places clips on the time that runs took.

    Args:
        created_s: [n] when each clip was committed, Unix seconds.
        audio_s: [n] length of each clip.
        run_ids: [n] run of each clip.
        started_s: Start of each run, where known; else its first clip counts.
    """
    if created_s.size == 0:
        return None
    names, index = np.unique(run_ids, return_inverse=True)
    first = np.full(names.size, np.inf)
    last = np.full(names.size, -np.inf)
    np.minimum.at(first, index, created_s)
    np.maximum.at(last, index, created_s)
    first_clip = first
    first = np.minimum(first, [started_s.get(str(n), np.inf) for n in names])
    lengths = np.maximum(last - first, 1.0)
    startup = first_clip - first
    order = np.argsort(first, kind="stable")
    left = np.zeros(names.size)
    left[order] = np.concatenate([[0.0], np.cumsum(lengths[order])[:-1]])
    total_s = float(lengths.sum())
    x = (left[index] + created_s - first[index]) / total_s  # [n], 0..1
    slices = int(np.clip(created_s.size, 24, 96))
    made, _ = np.histogram(x, bins=slices, range=(0, 1), weights=audio_s)
    return Timeline(
        spans=tuple(
            Span(str(names[i]), *(100 * part[i] / total_s for part in (left, lengths, startup)))
            for i in order
        ),
        growth_path=_growth_path(np.sort(x)),
        speeds=tuple(float(s) for s in made / (total_s / slices)),
        total_s=total_s,
    )


def _growth_path(x: NDArray[np.float64], points: int = 240) -> str:
    """Area under the count of sorted x (0..1), as steps where there are few."""
    if x.size <= points:
        steps = (f"H{100 * at:.2f}V{100 - 100 * (i + 1) / x.size:.2f}" for i, at in enumerate(x))
        return "M0 100" + "".join(steps) + "H100V100Z"
    at = np.linspace(0, 1, points + 1)
    share = np.searchsorted(x, at, side="right") / x.size
    line = "".join(f"L{100 * a:.2f} {100 - 100 * s:.2f}" for a, s in zip(at, share, strict=True))
    return "M0 100" + line + "V100Z"
