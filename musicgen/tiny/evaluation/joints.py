"""Measures how audible the joints between the windows of a long clip are."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from musicgen.conditioning.chroma import ChromaExtractor
from musicgen.conditioning.tune import tune_config
from musicgen.tiny.music import SAMPLE_RATE_HZ
from musicgen.tiny.training.figures import Entry, Table
from musicgen.tiny.training.synth import FRAME_RATE_HZ
from musicgen.windows import default_stride_s, plan_windows, stride_frames

SIDE_S = 0.5  # what is compared on either side of a point
HOP_S = 0.125  # between the points that a joint is compared with


def joints_of(duration_s: float, window_s: float) -> list[float]:
    """Where the windows of a clip are joined at the default stride, in seconds."""
    window = round(window_s * FRAME_RATE_HZ)
    stride = stride_frames(default_stride_s(window_s), FRAME_RATE_HZ, window)
    windows = plan_windows(round(duration_s * FRAME_RATE_HZ), window=window, stride=stride)
    return [(later.first_frame + later.n_prompt) / FRAME_RATE_HZ for later in windows[1:]]


def joint_figures(
    made: Sequence[Tensor], truth: Sequence[Tensor], joints_s: Sequence[float]
) -> Table:
    """The excess (see `joint_excesses`) at the joints of clips [N], and at all other points.

    An inaudible joint has the excess of the other points. The ceiling is measured on pieces [N]
    without joints, chance on two different pieces that are cut together.
    """
    cut = round(joints_s[0] * SAMPLE_RATE_HZ)
    others = [*truth[1:], *truth[:1]]
    pasted = [torch.cat([a[:cut], b[cut:]]) for a, b in zip(truth, others, strict=True)]
    value, elsewhere = _medians(made, joints_s)
    ceiling, ceiling_elsewhere = _medians(truth, joints_s)
    chance, _ = _medians(pasted, joints_s[:1])
    return {
        "joint_excess": Entry(value, chance, ceiling),
        "joint_excess_elsewhere": Entry(elsewhere, None, ceiling_elsewhere),
    }


def _medians(wavs: Sequence[Tensor], joints_s: Sequence[float]) -> tuple[float, float]:
    at_joints, elsewhere = zip(*(joint_excesses(wav, joints_s) for wav in wavs), strict=True)
    return float(np.median(np.concatenate(at_joints))), float(np.median(np.concatenate(elsewhere)))


def joint_excesses(
    wav: Tensor, joints_s: Sequence[float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The jump at each joint of `wav` [N] over the median jump elsewhere: [joints]; and the same at
    all those other points: [n].

    A jump is the change of level (in dB) or of chroma (the cosine distance) from the half second
    before a point to the half second after it; the larger of the two ratios counts.
    """
    seconds = len(wav) / SAMPLE_RATE_HZ
    everywhere = np.arange(SIDE_S, seconds - SIDE_S, HOP_S)
    inside = [s for s in everywhere if min(abs(s - joint) for joint in joints_s) > SIDE_S]
    elsewhere = np.array([_jumps(wav, s) for s in inside])  # [n, 2]
    usual = np.maximum(np.median(elsewhere, axis=0), 1e-6)  # [2]
    at_joints = np.array([_jumps(wav, joint) for joint in joints_s])
    return (at_joints / usual).max(axis=1), (elsewhere / usual).max(axis=1)


def _jumps(wav: Tensor, at_s: float) -> tuple[float, float]:
    n, at = round(SIDE_S * SAMPLE_RATE_HZ), round(at_s * SAMPLE_RATE_HZ)
    sides = [wav[max(at - n, 0) : at].double(), wav[at : at + n].double()]
    levels = [10 * torch.log10(side.square().mean() + 1e-8) for side in sides]
    extractor = ChromaExtractor(tune_config(SIDE_S))
    chroma = [extractor.energies(side[None], SAMPLE_RATE_HZ).mean(dim=0) for side in sides]
    likeness = torch.nn.functional.cosine_similarity(chroma[0], chroma[1], dim=0)
    return abs(float(levels[0] - levels[1])), float(1 - likeness)
