"""What a model hears of a reference: pitch classes of a melody, samples at its own rate.

The only part of the prepare pool that needs torch, which takes seconds to import and half a
gigabyte: the process from which readers are forked loads it, with the first reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from manifests.audio_file import AudioStream
from musicgen.audio import resample, to_channels
from musicgen.checkpoints.describe import ModelInfo
from musicgen.conditioning.chroma import ChromaExtractor
from musicgen.conditioning.separation import Separator, load_separator, separation_name
from musicgen.windows import Window

if TYPE_CHECKING:
    from pipeline.prepare.prepared import PitchClasses, Samples

Mono = Tensor  # [1, N], float64


class ReferenceAnalyzer:
    """Turns decoded references into the inputs of one model.

    Args:
        info: The model.
        separation: The separator that the plan counts on for melodies, by name; None: no separator.
        window_frames: Length of the model's window.

    Attributes:
        separation: Name of the separator that melodies are heard through, None for the plain mix.
    """

    def __init__(self, info: ModelInfo, separation: str | None, window_frames: int) -> None:
        torch.set_num_threads(1)
        self._info = info
        self._frames = {"frame_rate_hz": info.frame_rate_hz, "window_frames": window_frames}
        separator = _separator(separation) if info.chroma else None
        self.separation = separation_name(separator)
        self._chroma = ChromaExtractor(info.chroma, separator) if info.chroma else None

    def mono(self, audio: AudioStream, windows: Sequence[Window]) -> Mono:
        """What a melody is read from, mixed as it is decoded; samples that no window hears are
        decoded and dropped."""
        assert self._chroma is not None  # the plan refuses melodies for other models
        n_heard = self._chroma.n_heard(audio.rate_hz, windows, **self._frames)
        n_kept = audio.n_declared if n_heard is None else min(n_heard, audio.n_declared)
        mono = torch.empty((1, n_kept), dtype=torch.float64)
        n_done = 0
        for block in audio.blocks():
            some = torch.from_numpy(block[:, : n_kept - n_done])  # [C, n]
            mono[0, n_done : n_done + some.shape[1]] = some.double().mean(dim=0)
            n_done += some.shape[1]
        return mono[:, :n_done]

    def melody(self, mono: Mono, rate_hz: int, windows: Sequence[Window]) -> PitchClasses:
        """The loudest pitch class of each chroma frame of what `mono` gave.

        Returns:
            uint8 [n], or [W, n] where the clip has W > 1 windows.
        """
        assert self._chroma is not None
        if len(windows) == 1:
            bins = self._chroma(mono, rate_hz)
        else:
            bins = self._chroma.windows(mono, rate_hz, windows, **self._frames)
        classes: PitchClasses = bins.to(torch.uint8).numpy()
        return classes

    def at_rate(self, samples: Samples, rate_hz: int) -> Samples:
        """Samples [C, N] at `rate_hz`, at the model's own rate and channels."""
        at_rate = resample(torch.from_numpy(samples), rate_hz, self._info.sample_rate_hz)
        own: Samples = to_channels(at_rate, self._info.channels).contiguous().numpy()  # [C, N]
        return own


def _separator(wanted: str | None) -> Separator | None:
    """The separator that the plan counts on; its name is part of the clips' identity, so no other
    way of hearing a melody will do."""
    if wanted is None:
        return None
    separator = load_separator()
    if separator is None:
        raise RuntimeError(
            "the driver has demucs installed, this node has not: install it everywhere, or set "
            "--separation none"
        )
    return separator
