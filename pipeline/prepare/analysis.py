"""What a model hears of a reference: pitch classes of a melody, samples at its own rate.

The only part of the prepare pool that needs torch, which takes more than a second to import: it is
loaded with the first reference.
"""

from collections.abc import Sequence

import torch

from musicgen.audio import resample, to_channels
from musicgen.checkpoints.describe import ModelInfo
from musicgen.conditioning.chroma import ChromaExtractor
from musicgen.conditioning.separation import Separator, load_separator, separation_name
from musicgen.windows import Window
from pipeline.prepare.prepared import PitchClasses, Samples


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
        self._info, self._window_frames = info, window_frames
        separator = _separator(separation) if info.chroma else None
        self.separation = separation_name(separator)
        self._chroma = ChromaExtractor(info.chroma, separator) if info.chroma else None

    def melody(self, samples: Samples, rate_hz: int, windows: Sequence[Window]) -> PitchClasses:
        """The loudest pitch class of each chroma frame of samples [C, N] at `rate_hz`.

        Returns:
            uint8 [n], or [W, n] where the clip has W > 1 windows.
        """
        assert self._chroma is not None  # the plan refuses melodies for other models
        wav = torch.from_numpy(samples)
        if len(windows) == 1:
            bins = self._chroma(wav, rate_hz)
        else:
            bins = self._chroma.windows(
                wav,
                rate_hz,
                windows,
                frame_rate_hz=self._info.frame_rate_hz,
                window_frames=self._window_frames,
            )
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
