"""What a model hears of a reference: pitch classes of a melody, samples at its own rate.

The only part of the prepare pool that needs torch, which takes seconds to import and half a
gigabyte: the process from which readers are forked loads it, with the first reference.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from manifests.audio_file import AudioStream
from musicgen.audio import resampled_pieces, to_channels
from musicgen.checkpoints.describe import ModelInfo
from musicgen.conditioning.chroma import ChromaExtractor, tile
from musicgen.conditioning.separation import Separator, load_separator, separation_name
from musicgen.conditioning.tune import HOP_LENGTH, RATE_HZ, pitch_classes
from musicgen.windows import Window

if TYPE_CHECKING:
    from pipeline.prepare.prepared import PitchClasses, Samples, Tune

Mono = Tensor  # [1, N], float64, at the rate of the chromagram


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
        """What a melody is read from, mixed and resampled as it is decoded; samples that no window
        hears are decoded and dropped."""
        assert self._chroma is not None  # the plan refuses melodies for other models
        n_heard = self._chroma.n_heard(audio.rate_hz, windows, **self._frames)
        n_kept = audio.n_declared if n_heard is None else min(n_heard, audio.n_declared)
        mixed = (torch.from_numpy(b).double().mean(dim=0, keepdim=True) for b in audio.blocks())
        return _at_rate(mixed, n_kept, (audio.rate_hz, self._chroma.config.sample_rate_hz), 1)

    def melody(self, mono: Mono, windows: Sequence[Window]) -> PitchClasses:
        """The loudest pitch class of each chroma frame of what `mono` gave.

        Returns:
            uint8 [n], or [W, n] where the clip has W > 1 windows.
        """
        assert self._chroma is not None
        rate_hz = self._chroma.config.sample_rate_hz
        if len(windows) == 1:
            bins = self._chroma(mono, rate_hz)
        else:
            bins = self._chroma.windows(mono, rate_hz, windows, **self._frames)
        classes: PitchClasses = bins.to(torch.uint8).numpy()
        return classes

    def samples(self, audio: AudioStream, n_kept: int) -> Samples:
        """The first `n_kept` samples of each channel, at the model's own rate and channels [C, N];
        the others are decoded and dropped."""
        blocks = (torch.from_numpy(block) for block in audio.blocks())
        rates = audio.rate_hz, self._info.sample_rate_hz
        own: Samples = _at_rate(blocks, n_kept, rates, self._info.channels).numpy()
        return own


def tune_of(audio: AudioStream, duration_s: float) -> Tune:
    """The pitch classes of a melody as scorers hear it: the plain mix, repeated to the length of a
    clip as the model hears it repeated; int8 [n]."""
    n_kept = min(audio.n_declared, int((duration_s + 1) * audio.rate_hz))
    mixed = (torch.from_numpy(b).double().mean(dim=0, keepdim=True) for b in audio.blocks())
    mono = _at_rate(mixed, n_kept, (audio.rate_hz, RATE_HZ), 1)[0].float()
    classes = torch.from_numpy(pitch_classes(mono))
    n_wanted = int(duration_s * RATE_HZ) // HOP_LENGTH + 2
    tune: Tune = tile(classes, n_wanted).to(torch.int8).numpy()
    return tune


def _at_rate(
    blocks: Iterable[Tensor], n_samples: int, rates: tuple[int, int], channels: int
) -> Tensor:
    """The first samples of blocks [C, n] at another rate and number of channels, [channels, N];
    beside the result one piece of the audio is held."""
    from_hz, to_hz = rates
    n_done, out = 0, torch.empty((channels, 0))
    for piece in resampled_pieces(blocks, n_samples, from_hz, to_hz):
        own = to_channels(piece, channels)
        if not n_done:
            out = own.new_empty((channels, n_samples * to_hz // from_hz))
        out[:, n_done : n_done + own.shape[-1]] = own
        n_done += own.shape[-1]
    return out[:, :n_done]


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
