"""The music that the bundled model knows: keys, tempos, voices, the words that captions have for
them, and what a prompt says of them."""

import re
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

SAMPLE_RATE_HZ = 16_000
FRAME_SAMPLES = 320  # 20 ms: the codec's hop
A4_HZ, A4_MIDI = 440.0, 69

TONICS = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
MODES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}
SAYS = {"slow": ("slow", "calm"), "fast": ("fast", "lively")}
VOICE_NAMES = ("organ", "flute", "pluck", "bell")

_STEPS = {"c": 0, "d": 2, "e": 4, "f": 5, "g": 7, "a": 9, "b": 11}
_KEY = re.compile(r"(?<![a-z])([a-g])(#|b|♯|♭|[ -]sharp|[ -]flat)?[ -](major|minor)(?![a-z])")
_TEMPOS = {word: tempo for tempo, words in SAYS.items() for word in words}


@dataclass(frozen=True)
class Asked:
    """What a prompt asks for; None where it says nothing, or two different things.

    Attributes:
        scale: Pitch classes of its key, C = 0.
        tempo: `slow` or `fast`.
        voice: One of VOICE_NAMES.
    """

    scale: frozenset[int] | None = None
    tempo: str | None = None
    voice: str | None = None


def scale_of(tonic: int, mode: str) -> frozenset[int]:
    """The seven pitch classes of a key."""
    return frozenset((tonic + step) % 12 for step in MODES[mode])


def asked_by(prompt: str | None) -> Asked:
    """What a prompt says of key, tempo and voice, in the words of the captions."""
    text = (prompt or "").lower()
    words = re.findall(r"[a-z]+", text)
    keys = {scale_of(_tonic(*found[:2]), found[2]) for found in _KEY.findall(text)}
    tempos = {_TEMPOS[word] for word in words if word in _TEMPOS}
    voices = {word for word in words if word in VOICE_NAMES}
    return Asked(_only(keys), _only(tempos), _only(voices))


def _only(found: set[T]) -> T | None:
    return next(iter(found)) if len(found) == 1 else None


def _tonic(letter: str, sign: str) -> int:
    shift = 1 if sign in ("#", "♯") or "sharp" in sign else -1 if sign else 0
    return (_STEPS[letter] + shift) % 12
