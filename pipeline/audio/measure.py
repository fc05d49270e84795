"""What a clip measures: level, BS.1770 loudness and true peak, silence, clipping, offset, noise.

The field names of `Quality` are column names of `clips/`. Nothing here is infinite or NaN: levels
stop at `FLOOR_DBFS`, and a loudness that does not exist is null with a reason.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

FLOOR_DBFS = -120.0  # digital silence, in place of minus infinity
SILENCE_DBFS = -60.0  # a window whose RMS is below this counts as silence
SILENCE_WINDOW_S = 0.02
CLIP_LEVEL = 1.0 - 2.0**-15  # the largest value that 16 bits can hold

BLOCK_S = 0.4  # BS.1770-4: gating blocks of 400 ms, a new one every 100 ms
ABSOLUTE_GATE_LUFS = -70.0
RELATIVE_GATE_LU = -10.0

N_FFT = 2048
HOP = 1024
FRAMES_AT_ONCE = 1024

OVERSAMPLING = 4  # BS.1770-4 annex 2
SINC_ZEROS, SINC_ROLLOFF = 24, 0.99  # of the interpolator: a sine is read within 0.02 dB
SINC_REACH = 32  # samples that the interpolator looks to each side
BLOCK_SAMPLES = 2048  # a block is oversampled if its highest sample is
PEAK_SHARE = 0.5  # this share of the clip's: between samples a signal is hardly 6 dB higher
BLOCKS_AT_ONCE = 512  # of either kind: an hour of audio is not copied whole
WINDOWS_AT_ONCE = 4096


class NotFiniteError(ValueError):
    """The audio holds NaN or infinite samples."""


@dataclass(frozen=True)
class Quality:
    """Measurements of one clip, over all channels together unless said."""

    peak_dbfs: float
    """Largest absolute sample, dB of full scale; what is above 0 is cut off in the file."""
    true_peak_dbtp: float
    """Largest value between the samples too, BS.1770-4 annex 2, dB of full scale."""
    rms_dbfs: float
    """Root mean square, dB of full scale: a full-scale square is 0, a full-scale sine -3.01."""
    loudness_lufs: float | None
    """Integrated loudness, ITU-R BS.1770-4; null where `loudness_reason` says why."""
    loudness_reason: str | None
    silence_ratio: float
    """Share of 20 ms windows whose RMS is below -60 dBFS in every channel, 0 to 1."""
    early_silence_s: float
    """Seconds of silence that the clip ends with: music that stopped before its time."""
    clip_ratio: float
    """Share of samples at or beyond full scale, 0 to 1."""
    dc_offset: float
    """Mean of the channel whose mean is farthest from 0, in units of full scale."""
    spectral_flatness: float
    """Geometric over arithmetic mean of the power spectrum, averaged over the frames that are not
    silent: near 0 for a tone, about 0.56 for white noise, 0 for silence."""

    def raised(self, wav: NDArray[np.float32], gain_db: float) -> Quality:
        """What the same clip measures after a gain, without measuring it all again.

        Silence and flatness stay: a gain makes no music of silence.

        Args:
            wav: [C, N] the samples after the gain.
        """

        def level(db: float) -> float:
            return max(db + gain_db, FLOOR_DBFS) if db > FLOOR_DBFS else db

        return replace(
            self,
            peak_dbfs=_dbfs(_peak(wav)),
            true_peak_dbtp=level(self.true_peak_dbtp),
            rms_dbfs=level(self.rms_dbfs),
            loudness_lufs=None if self.loudness_lufs is None else self.loudness_lufs + gain_db,
            clip_ratio=_clip_ratio(wav),
            dc_offset=self.dc_offset * 10.0 ** (gain_db / 20.0),
        )


def measure(wav: NDArray[np.float32], sample_rate_hz: int) -> Quality:
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
    lufs, reason = _loudness(wav, sample_rate_hz)
    silence_ratio, early_silence_s = _silence(energies, wav.shape[1], sample_rate_hz)
    return Quality(
        peak_dbfs=_dbfs(_peak(wav)),
        true_peak_dbtp=_dbfs(_true_peak(wav)),
        rms_dbfs=_dbfs(math.sqrt(float(energies.sum()) / wav.size)),
        loudness_lufs=lufs,
        loudness_reason=reason,
        silence_ratio=silence_ratio,
        early_silence_s=early_silence_s,
        clip_ratio=_clip_ratio(wav),
        dc_offset=float(means[np.argmax(np.abs(means))]),
        spectral_flatness=_spectral_flatness(wav),
    )


def _dbfs(amplitude: float) -> float:
    return max(20.0 * math.log10(amplitude), FLOOR_DBFS) if amplitude > 0.0 else FLOOR_DBFS


def _peak(wav: NDArray[np.float32]) -> float:
    return max(float(wav.max()), -float(wav.min()))


def _clip_ratio(wav: NDArray[np.float32]) -> float:
    n_beyond = np.count_nonzero(wav >= CLIP_LEVEL) + np.count_nonzero(wav <= -CLIP_LEVEL)
    return float(n_beyond / wav.size)


def _true_peak(wav: NDArray[np.float32]) -> float:
    """Largest absolute value of wav [C, N] oversampled; the first and last sample are held."""
    import torch  # here, so that the report can know this file without loading torch
    import torchaudio.functional as taf

    highest = _peak(wav)
    missing = -wav.shape[1] % BLOCK_SAMPLES
    held = np.pad(wav, ((0, 0), (SINC_REACH, SINC_REACH + missing)), mode="edge")
    width = BLOCK_SAMPLES + 2 * SINC_REACH
    blocks = torch.from_numpy(held).unfold(1, width, BLOCK_SAMPLES)  # [C, blocks, width], a view
    for start in range(0, blocks.shape[1], BLOCKS_AT_ONCE):
        some = blocks[:, start : start + BLOCKS_AT_ONCE]
        loud = some[some.abs().amax(dim=2) >= PEAK_SHARE * highest]  # [blocks, width]
        if not len(loud):
            continue
        fine = taf.resample(
            loud, 1, OVERSAMPLING, lowpass_filter_width=SINC_ZEROS, rolloff=SINC_ROLLOFF
        )
        edge = OVERSAMPLING * SINC_REACH
        highest = max(highest, float(fine[:, edge:-edge].abs().max()))
    return highest


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


def _k_weighting(sample_rate_hz: int) -> list[tuple[list[float], list[float]]]:
    """The two filters of BS.1770 as (b, a) for any rate; at 48 kHz the standard's own table.

    torchaudio's `loudness` is not used: it clamps the filtered signal at full scale, which costs a
    full-scale sine 0.27 LU, and its shelf is not quite the standard's.
    """
    gain, q, k = 10 ** (3.999843853973347 / 20), 0.7071752369554196, 1681.974450955533
    k = math.tan(math.pi * k / sample_rate_hz)
    mid = gain**0.4996667741545416
    a0 = 1 + k / q + k * k
    a_shelf = [1.0, 2 * (k * k - 1) / a0, (1 - k / q + k * k) / a0]
    b_shelf = [gain + mid * k / q + k * k, 2 * (k * k - gain), gain - mid * k / q + k * k]
    shelf = ([b / a0 for b in b_shelf], a_shelf)
    q, k = 0.5003270373238773, math.tan(math.pi * 38.13547087602444 / sample_rate_hz)
    a0 = 1 + k / q + k * k
    high_pass = ([1.0, -2.0, 1.0], [1.0, 2 * (k * k - 1) / a0, (1 - k / q + k * k) / a0])
    return [shelf, high_pass]


def _loudness(wav: NDArray[np.float32], sample_rate_hz: int) -> tuple[float | None, str | None]:
    """Gated loudness of wav [C, N], every channel at weight 1 (mono and stereo)."""
    block, hop = round(BLOCK_S * sample_rate_hz), round(BLOCK_S / 4 * sample_rate_hz)
    if wav.shape[1] < block:
        return None, f"shorter than {BLOCK_S} s"
    n_blocks = (wav.shape[1] - block) // hop + 1
    pieces = (
        range(first, min(first + BLOCKS_AT_ONCE, n_blocks))
        for first in range(0, n_blocks, BLOCKS_AT_ONCE)
    )
    energy = np.concatenate(
        [_block_energies(wav, sample_rate_hz, block, hop, blocks) for blocks in pieces]
    )
    kept = energy[energy > _energy(ABSOLUTE_GATE_LUFS)]
    if kept.size == 0:
        return None, "silence"
    relative_gate = kept.mean() * 10.0 ** (RELATIVE_GATE_LU / 10.0)
    kept = kept[kept > relative_gate]
    return -0.691 + 10.0 * math.log10(float(kept.mean())), None


def _block_energies(
    wav: NDArray[np.float32], sample_rate_hz: int, block: int, hop: int, blocks: range
) -> NDArray[np.float64]:
    """Mean squares of some gating blocks; the filters start a second earlier, so they have settled
    to the last bit that counts."""
    import torch
    import torchaudio.functional as taf

    start, end = blocks.start * hop, (blocks.stop - 1) * hop + block
    early = min(start, sample_rate_hz)
    weighted = torch.from_numpy(wav[:, start - early : end].astype(np.float64))
    for b, a in _k_weighting(sample_rate_hz):
        b_t, a_t = (torch.tensor(c, dtype=torch.float64) for c in (b, a))
        weighted = taf.lfilter(weighted, a_t, b_t, clamp=False)
    squares = weighted[:, early:].square().sum(dim=0)  # [N]
    energies: NDArray[np.float64] = squares.unfold(0, block, hop).mean(dim=1).numpy()
    return energies


def _energy(lufs: float) -> float:
    return float(10.0 ** ((lufs + 0.691) / 10.0))


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
