"""Measures how audible the joints between the windows of a long clip are."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from musicgen.tiny.music import SAMPLE_RATE_HZ
from musicgen.tiny.training.figures import Entry, Table
from musicgen.tiny.training.synth import FRAME_RATE_HZ
from musicgen.windows import default_stride_s, plan_windows, stride_frames

N_FFT, HOP = 512, 64  # samples: windows of 32 ms, every 4 ms
APART = 4  # hops between the two spectra that are compared
BANDS = 32  # of equal width: a click shows in all of them, a note in a few
FLOOR_DB = 60.0  # under the loudest band of the clip; below it is silence
NEAR_S = 0.06  # how far from a point what belongs to it may be: a few frames of the codec
EVERY_S = 0.125  # between the points that a joint is compared with
APART_S = 0.5  # these keep so far from joints and ends


def joints_of(duration_s: float, window_s: float) -> list[float]:
    """Where the windows of a clip are joined at the default stride, in seconds."""
    window = round(window_s * FRAME_RATE_HZ)
    stride = stride_frames(default_stride_s(window_s), FRAME_RATE_HZ, window)
    windows = plan_windows(round(duration_s * FRAME_RATE_HZ), window=window, stride=stride)
    return [(later.first_frame + later.n_prompt) / FRAME_RATE_HZ for later in windows[1:]]


def joint_figures(
    made: Sequence[Tensor], truth: Sequence[Tensor], joints_s: Sequence[float]
) -> Table:
    """The roughness at the joints of clips [N] over that at all other points of the same clips.

    An inaudible joint has 1. The ceiling is measured on pieces [N] without joints, chance on two
    different pieces that are cut together.
    """
    cut = round(joints_s[0] * SAMPLE_RATE_HZ)
    others = [*truth[1:], *truth[:1]]
    pasted = [torch.cat([a[:cut], b[cut:]]) for a, b in zip(truth, others, strict=True)]
    return {
        "joint_roughness": Entry(
            roughness_ratio(made, joints_s),
            roughness_ratio(pasted, joints_s[:1]),
            roughness_ratio(truth, joints_s),
        )
    }


def roughness_ratio(wavs: Sequence[Tensor], joints_s: Sequence[float]) -> float:
    """Mean roughness at the joints over the mean roughness elsewhere, of clips [N] together."""
    at_joints, elsewhere = [], []
    for wav in wavs:
        points = np.arange(APART_S, len(wav) / SAMPLE_RATE_HZ - APART_S, EVERY_S)
        far = [s for s in points if min(abs(s - joint) for joint in joints_s) > APART_S]
        at_joints.append(roughness(wav, joints_s).mean())
        elsewhere.append(roughness(wav, far).mean())
    return float(np.mean(at_joints) / np.mean(elsewhere))


def roughness(wav: Tensor, at_s: Sequence[float]) -> NDArray[np.float64]:
    """How abruptly the spectrum of `wav` [N] changes at each point, in dB: [points].

    It is the mean change of the bands' levels within 16 ms, at its largest within 60 ms of the
    point. A click, a jump of level and another sound are rough; so is the beginning of a note,
    which is why only the comparison with other points of the same clip tells something.
    """
    window = torch.hann_window(N_FFT, dtype=torch.float64)
    spectrum = torch.stft(wav.double(), N_FFT, HOP, N_FFT, window, return_complex=True)  # [F, n]
    power = spectrum.abs().square()[1:]  # without the constant part: 256 bins
    bands = power.view(BANDS, -1, power.shape[1]).mean(dim=1)  # [BANDS, n]
    floor = bands.max() * 10 ** (-FLOOR_DB / 10) + 1e-12
    level_db = 10 * torch.log10(bands + floor)
    change = (level_db[:, APART:] - level_db[:, :-APART]).abs().mean(dim=0).numpy()  # [n - APART]
    near = round(NEAR_S * SAMPLE_RATE_HZ / HOP)
    centres = [round(s * SAMPLE_RATE_HZ / HOP) - APART // 2 for s in at_s]
    return np.array([change[max(0, c - near) : c + near + 1].max() for c in centres])
