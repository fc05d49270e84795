"""What a model hears of a reference: pitch classes of a melody, samples at its own rate.

The only part of the prepare pool that needs torch, which takes more than a second to import: it is
loaded with the first reference.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from musicgen.audio import resample, to_channels
from musicgen.checkpoints.describe import ModelInfo
from musicgen.conditioning.chroma import ChromaExtractor
from musicgen.conditioning.separation import Separator, load_separator, separation_name
from musicgen.windows import Window

Samples = np.ndarray[Any, np.dtype[np.float32]]


class ReferenceAnalyzer:
    """The ears of one model.

    Args:
        info: The model.
        separation: What the plan counts on for melodies: a separator's name, or None.
        window_frames: Length of the model's window.
    """

    def __init__(self, info: ModelInfo, separation: str | None, window_frames: int) -> None:
        torch.set_num_threads(1)
        self.info, self.window_frames = info, window_frames
        separator = _separator(separation) if info.chroma else None
        self.heard = separation_name(separator)
        self.chroma = ChromaExtractor(info.chroma, separator) if info.chroma else None

    def melody(self, samples: Samples, rate: int, windows: Sequence[Window]) -> bytes:
        """uint8 pitch classes of samples [C, N]: [n], or [W, n] where the clip has W windows."""
        assert self.chroma is not None  # the plan refuses melodies for other models
        wav = torch.from_numpy(samples)
        if len(windows) == 1:
            bins = self.chroma(wav, rate)
        else:
            bins = self.chroma.windows(
                wav,
                rate,
                windows,
                frame_rate_hz=self.info.frame_rate_hz,
                window_frames=self.window_frames,
            )
        data: bytes = bins.to(torch.uint8).numpy().tobytes()
        return data

    def at_rate(self, samples: Samples, rate: int) -> Samples:
        """Samples [C, N] at the model's sample rate and channels."""
        at_rate = resample(torch.from_numpy(samples), rate, self.info.sample_rate_hz)
        own: Samples = to_channels(at_rate, self.info.channels).contiguous().numpy()  # [C, N]
        return own


def _separator(wanted: str | None) -> Separator | None:
    """What the plan counts on: it is part of the clips' identity, so nothing else will do."""
    if wanted is None:
        return None
    separator = load_separator()
    if separator is None:
        raise RuntimeError(
            "the driver has demucs installed, this node has not: install it everywhere, or set "
            "--separation none"
        )
    return separator
