"""A stand-in for the package audioseal with its call signatures: its weights can't be had here.

As in audioseal 0.2, a generator takes [B, 1, n] samples with their rate and a message [B, 16],
draws a random message where none is given, and returns the mark alone.
"""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

MODEL_HZ = 16_000


class Generator(nn.Module):
    """Its mark is a tone per bit of the message that is set; what it was given stands in `seen`."""

    def __init__(self) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.tensor(0.01))
        self.seen: list[tuple[tuple[int, ...], int]] = []

    def get_watermark(
        self, x: Tensor, sample_rate: int | None = None, message: Tensor | None = None
    ) -> Tensor:
        assert x.ndim == 3
        assert x.shape[1] == 1
        assert sample_rate == MODEL_HZ
        self.seen.append((tuple(x.shape), sample_rate))
        if message is None:
            message = torch.randint(0, 2, (len(x), 16))
        seconds = torch.arange(x.shape[-1]) / MODEL_HZ
        pitches_hz = (500 + 50 * torch.arange(16))[:, None]
        tones = torch.sin(2 * torch.pi * pitches_hz * seconds)  # [16, n]
        return (self.level * (message.float() @ tones))[:, None]  # [B, 1, n]


def install(monkeypatch: pytest.MonkeyPatch, generator: Generator | Exception) -> None:
    """Puts the stand-in where `import audioseal` finds it.

    Args:
        monkeypatch: Takes it away again.
        generator: What `AudioSeal.load_generator` gives, or raises.
    """

    class AudioSeal:
        @staticmethod
        def load_generator(model_card_or_path: str) -> Generator:
            assert model_card_or_path == "audioseal_wm_16bits"
            if isinstance(generator, Exception):
                raise generator
            return generator

    package = ModuleType("audioseal")
    package.AudioSeal = AudioSeal  # type: ignore[attr-defined]
    package.__spec__ = ModuleSpec("audioseal", None)
    monkeypatch.setitem(sys.modules, "audioseal", package)
