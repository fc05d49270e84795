"""The tune of audio: its strongest pitch class in each frame, and how far two tunes agree.

The frames are those of the bundled model's melody condition (140 ms), whatever model is judged, so
that figures of different models can be compared.
"""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from musicgen.conditioning.chroma import ChromaExtractor
from musicgen.config import ChromaConfig

RATE_HZ = 16_000
N_FFT, HOP_LENGTH, N_CHROMA = 4096, 2240, 12
QUIET = 0.003  # RMS under which a frame counts as silent
SILENT = -1  # in the place of a pitch class

Tune = NDArray[np.int64]  # [n]


def tune_config(max_duration_s: float) -> ChromaConfig:
    """The chromagram of audio of that length: a frame per 140 ms."""
    n_frames = 1 + int(max_duration_s * RATE_HZ) // HOP_LENGTH
    return ChromaConfig(N_FFT, HOP_LENGTH, N_CHROMA, n_frames, RATE_HZ)


def pitch_classes(wav: Tensor) -> Tune:
    """Strongest pitch class of every frame of `wav` [N] at RATE_HZ, SILENT where it is: [n]."""
    seconds = len(wav) / RATE_HZ
    classes = ChromaExtractor(tune_config(seconds))(wav[None], RATE_HZ).numpy().copy()
    starts = np.arange(len(classes)) * HOP_LENGTH - HOP_LENGTH // 2
    for index, start in enumerate(starts):
        part = wav[max(start, 0) : start + HOP_LENGTH]
        if not len(part) or float(part.square().mean().sqrt()) < QUIET:
            classes[index] = SILENT
    return np.asarray(classes)


def chroma_agreement(classes: Tune, reference: Tune) -> float:
    """Share of the frames whose strongest pitch class is the reference's."""
    n = min(len(classes), len(reference))
    return float((classes[:n] == reference[:n]).mean())
