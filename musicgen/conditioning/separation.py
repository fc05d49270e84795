"""Source separation: takes drums and bass out of the audio that a melody is read from.

If the `demucs` package is installed, its htdemucs is used as in AudioCraft (vocals and other are
summed); otherwise melodies are read from the mix as it is. Demucs shifts its input by a random
offset unless told otherwise; here the shift is always zero: the same audio gives the same melody.
"""

from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any, Protocol

import torch
from torch import Tensor

from musicgen.audio import resample, to_channels

PLAIN_MIX = "none"  # name of the separation where none takes place
MODEL = "htdemucs"
STEMS = ("vocals", "other")


class Separator(Protocol):
    """Extracts from a recording the part that carries its melody."""

    @property
    def name(self) -> str:
        """Name of the separation, for the provenance of a clip."""
        ...

    def __call__(self, wav: Tensor, sample_rate_hz: int) -> Tensor:
        """The part of `wav` [C, N] that carries the melody: [1, N], at the same rate."""
        ...


class DemucsSeparator:
    """Separation by htdemucs.

    Args:
        model: A loaded Demucs model; by default htdemucs, which Demucs finds and loads itself.
        device: Where it runs.
    """

    def __init__(self, model: Any = None, device: torch.device | str = "cpu") -> None:
        if model is None:
            from demucs.pretrained import get_model

            model = get_model(MODEL)
        missing = set(STEMS) - set(model.sources)
        if missing:
            raise ValueError(
                f"the separation model knows {', '.join(model.sources)}, not "
                f"{', '.join(sorted(missing))}; use htdemucs"
            )
        self.model = model.eval()
        self.device = torch.device(device)

    @property
    def name(self) -> str:
        """As `htdemucs (demucs 4.0.1, shifts=0)`."""
        try:
            release = version("demucs")
        except PackageNotFoundError:
            release = "unknown"
        return f"{MODEL} (demucs {release}, shifts=0)"

    @torch.no_grad()
    def __call__(self, wav: Tensor, sample_rate_hz: int) -> Tensor:
        """Vocals and other of `wav` [C, N]: [1, N]."""
        from demucs.apply import apply_model

        n_samples, model_rate_hz = wav.shape[-1], int(self.model.samplerate)
        mono = to_channels(wav, 1).float()  # as in the reference: mono first
        mix = to_channels(resample(mono, sample_rate_hz, model_rate_hz), self.model.audio_channels)
        stems = apply_model(
            self.model, mix[None], shifts=0, split=True, overlap=0.25, device=self.device
        )[0]  # [stems, C, N]
        kept = [stems[self.model.sources.index(stem)] for stem in STEMS]
        lead = torch.stack(kept).sum(dim=0).mean(dim=0, keepdim=True).cpu()  # [1, N]
        lead = resample(lead, model_rate_hz, sample_rate_hz)
        # Each resampling rounds the length down, so samples may be missing: pad with silence.
        return torch.nn.functional.pad(lead, (0, n_samples - lead.shape[-1]))


@lru_cache(maxsize=1)
def load_separator() -> Separator | None:
    """Demucs where it is installed, else None: melodies are then read from the plain mix."""
    return DemucsSeparator() if find_spec("demucs") else None


def separation_name(separator: Separator | None) -> str:
    """Name of a separation, for the provenance of a clip."""
    return PLAIN_MIX if separator is None else separator.name
