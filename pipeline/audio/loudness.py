"""Loudness and true peak of a clip, as ITU-R BS.1770-4 defines them.

torch is imported where it is used, so that the report can know the measures without loading it.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

BLOCK_S = 0.4  # BS.1770-4: gating blocks of 400 ms, a new one every 100 ms
ABSOLUTE_GATE_LUFS = -70.0
RELATIVE_GATE_LU = -10.0

OVERSAMPLING = 4  # BS.1770-4 annex 2
SINC_ZEROS, SINC_ROLLOFF = 24, 0.99  # of the interpolator: a sine is read within 0.02 dB
SINC_REACH = 32  # samples that the interpolator looks to each side
BLOCK_SAMPLES = 2048  # a block is oversampled if its highest sample reaches
PEAK_SHARE = 0.5  # of the clip's highest: between samples a signal is hardly 6 dB higher
BLOCKS_AT_ONCE = 512  # of either kind: an hour of audio is not copied whole


def k_weighting(sample_rate_hz: int) -> list[tuple[list[float], list[float]]]:
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


def integrated_loudness(
    wav: NDArray[np.float32], sample_rate_hz: int
) -> tuple[float | None, str | None]:
    """Gated loudness in LUFS of wav [C, N], every channel at weight 1 (mono and stereo), or None
    and why there is none."""
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
    for b, a in k_weighting(sample_rate_hz):
        b_t, a_t = (torch.tensor(c, dtype=torch.float64) for c in (b, a))
        weighted = taf.lfilter(weighted, a_t, b_t, clamp=False)
    squares = weighted[:, early:].square().sum(dim=0)  # [N]
    energies: NDArray[np.float64] = squares.unfold(0, block, hop).mean(dim=1).numpy()
    return energies


def _energy(lufs: float) -> float:
    return float(10.0 ** ((lufs + 0.691) / 10.0))


def true_peak(wav: NDArray[np.float32], peak: float) -> float:
    """Largest absolute value of wav [C, N] oversampled; the first and last sample are held.

    Args:
        wav: The samples.
        peak: The largest absolute sample of them.
    """
    import torch
    import torchaudio.functional as taf

    highest = peak
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
