"""Old tunes that training never met: it reads random walks through scales, and these are songs.

All are of the public domain. Each is asked for in several keys and in each voice; the reference
plays it in another voice.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from musicgen.tiny.music import FRAME_SAMPLES, TONICS, VOICE_NAMES
from musicgen.tiny.training.pieces import HIGHEST, LOWEST, rng_of
from musicgen.tiny.training.synth import Note, render

STREAM = 34
BEAT_FRAMES = {"slow": 26, "fast": 11}  # frames of 20 ms, within what the tempos' words mean

# Note numbers, each with its length in beats where that is not 1; the tonic and mode as written.
SONGS: dict[str, tuple[str, int, str]] = {
    "twinkle": ("60 60 67 67 69 69 67:2 65 65 64 64 62 62 60:2", 0, "major"),
    "lamb": ("64 62 60 62 64 64 64:2 62 62 62:2 64 67 67:2", 0, "major"),
    "bridge": ("67:1.5 69:0.5 67 65 64 65 67:2 62 64 65:2 64 65 67:2", 0, "major"),
    "bells": ("64 64 64:2 64 64 64:2 64 67 60:1.5 62:0.5 64:4", 0, "major"),
    "moon": ("60 60 60 62 64:2 62:2 60 64 62 62 60:4", 0, "major"),
    "saints": ("60 64 65 67:4 60 64 65 67:4 60 64 65 67:2 64:2", 0, "major"),
    "grace": ("62 67:2 71:0.5 67:0.5 71:2 69 67:2 64 62:2", 7, "major"),
    "syne": ("60 65:1.5 65:0.5 65 69 67:1.5 65:0.5 67 69 65:1.5 65:0.5 69 72 74:3", 5, "major"),
    "yankee": ("67 67 69 71 67 71 69:2 67 67 69 71 67:2 66:2", 7, "major"),
    "row": ("60:1.5 60:1.5 60 62:0.5 64:1.5 64 62:0.5 64 65:0.5 67:3", 0, "major"),
    "night": ("67:1.5 69:0.5 67 64:3 67:1.5 69:0.5 67 64:3", 0, "major"),
    "largo": ("64:1.5 67:0.5 67:2 64:1.5 62:0.5 60:2 62 64 67 64 62:4", 0, "major"),
    "ode": ("64 64 65 67 67 65 64 62 60 60 62 64 64:1.5 62:0.5 62:2", 0, "major"),
    "brother": ("65 67 69 65 65 67 69 65 69 70 72:2 69 70 72:2", 5, "major"),
    "sleeves": ("69 72:2 74 76:1.5 77:0.5 76 74:2 71 67:1.5 69:0.5 71 72:2 69", 9, "minor"),
    "rosemary": ("74:2 72 69:2 72 74 76 77:2 76 74:2 72 69:3", 9, "minor"),
}


@dataclass(frozen=True)
class Sung:
    """A tune that is asked for.

    Attributes:
        caption: What is asked for.
        reference: The tune in another voice [N].
        wanted: The tune in the voice that is asked for [N].
    """

    caption: str
    reference: Tensor
    wanted: Tensor


def sung(seed: int, n_frames: int, keys_per_song: int) -> Iterator[Sung]:
    """Every song in random keys, tempos and voices, each `n_frames` frames of 20 ms long."""
    for index, (text, tonic, mode) in enumerate(SONGS.values()):
        rng = rng_of(seed, STREAM, index)
        for _ in range(keys_per_song):
            shift = int(rng.integers(*_shifts(text)))
            tempo = str(rng.choice(list(BEAT_FRAMES)))
            voice, other = (str(name) for name in rng.choice(VOICE_NAMES, size=2, replace=False))
            caption = f"{TONICS[(tonic + shift) % 12]} {mode}, {tempo} {voice} melody"
            played = [_play(text, shift, BEAT_FRAMES[tempo], by, n_frames) for by in (other, voice)]
            yield Sung(caption, *played)


def _shifts(text: str) -> tuple[int, int]:
    """The transpositions that keep a tune within the range: the first, and one beyond the last."""
    notes = [int(step.partition(":")[0]) for step in text.split()]
    return max(-6, LOWEST - min(notes)), min(6, HIGHEST - max(notes)) + 1


def _play(text: str, shift: int, beat_frames: int, voice: str, n_frames: int) -> Tensor:
    """The song from its beginning, again and again, until it is long enough."""
    events: list[Note] = []
    frame = 0
    steps = text.split()
    while frame < n_frames:
        midi, _, beats = steps[len(events) % len(steps)].partition(":")
        length = round(float(beats or 1) * beat_frames)
        events.append(Note(voice, frame, length, int(midi) + shift))
        frame += length
    wav = render(events, frame)[: n_frames * FRAME_SAMPLES]
    return torch.from_numpy(np.ascontiguousarray(wav))
