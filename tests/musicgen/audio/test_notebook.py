"""Players in a notebook."""

import io
import sys
import wave
from typing import Any

import pytest
import torch

from musicgen.audio import display_audio

display = pytest.importorskip("IPython.display")


def test_each_clip_gets_a_player(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    monkeypatch.setattr(display, "display", shown.append)
    display_audio(torch.rand(2, 1, 800), 16_000)
    display_audio(torch.rand(2, 800), 16_000)
    assert len(shown) == 3
    assert [player.autoplay for player in shown] == [False] * 3
    for player in shown:
        with wave.open(io.BytesIO(player.data)) as file:
            assert (file.getframerate(), file.getnframes()) == (16_000, 800)


def test_a_single_channel_without_its_dimension_is_refused() -> None:
    for kind in (AssertionError, ValueError):
        with pytest.raises(kind, match=r"\[B, C, N\] or \[C, N\], got \[9\]"):
            display_audio(torch.rand(9), 16_000)


def test_a_missing_ipython_says_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "IPython.display", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'musicgen-batch\[notebook\]'"):
        display_audio(torch.rand(1, 9), 16_000)
