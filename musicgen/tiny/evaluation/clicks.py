"""Counts clicks: moments in which audio has a burst at its highest frequencies.

They come from a token that fits nothing around it. Only a flute without drums is as smooth as this
takes: the other voices begin their notes with such bursts.
"""

from collections.abc import Iterable

import numpy as np
from torch import Tensor

from musicgen.tiny.music import FRAME_SAMPLES, SAMPLE_RATE_HZ
from musicgen.tiny.training.pieces import Piece

ORDER = 4  # of the difference: what is an octave lower counts 24 dB less
CLICK = 0.12  # of full scale, after that difference


SMOOTH_VOICE = "flute"


def is_smooth(piece: Piece) -> bool:
    """Whether nothing in a piece should click."""
    return piece.voice == SMOOTH_VOICE and "drums" not in piece.extras


def count_clicks(wav: Tensor) -> int:
    """Clicks in `wav` [N]; what lasts for several frames of 20 ms is one."""
    sharp = np.abs(np.diff(wav.double().numpy(), n=ORDER))
    n_frames = len(sharp) // FRAME_SAMPLES
    loudest = sharp[: n_frames * FRAME_SAMPLES].reshape(n_frames, -1).max(axis=1)
    hot = np.concatenate([[False], loudest > CLICK])
    return int((hot[1:] & ~hot[:-1]).sum())


def clicks_per_minute(wavs: Iterable[Tensor]) -> float:
    """Clicks in a minute of clips [N]."""
    clips = list(wavs)
    minutes = sum(len(wav) for wav in clips) / SAMPLE_RATE_HZ / 60
    return sum(count_clicks(wav) for wav in clips) / minutes if clips else 0.0
