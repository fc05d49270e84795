"""The synthesiser: turns notes of four voices, bass, chords and drums into samples.

Notes begin and end on the codec's frames and start with the same phase, so that equal notes are
equal samples: what a small codec and a small language model have to learn is the music.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from musicgen.tiny.music import A4_HZ, A4_MIDI, FRAME_SAMPLES, SAMPLE_RATE_HZ

FRAME_RATE_HZ = SAMPLE_RATE_HZ // FRAME_SAMPLES
RELEASE_S = 0.02  # every note fades within its own time
CACHED_NOTES = 4096
KICK, HAT = "kick", "hat"

Samples = NDArray[np.float32]  # [N], 1.0 = full scale


@dataclass(frozen=True)
class Timbre:
    """How an instrument sounds.

    Attributes:
        partials: For each: frequency as a multiple of the note's, level, decay per second.
        level: Of the note as a whole, 1.0 = full scale.
        attack_s: Time in which the note fades in.
        vibrato: Depth of a 5.5 Hz vibrato as a share of the frequency.
    """

    partials: tuple[tuple[float, float, float], ...]
    level: float
    attack_s: float
    vibrato: float = 0.0


VOICES = {
    "organ": Timbre(((1, 1.0, 0), (2, 0.55, 0), (3, 0.3, 0), (4, 0.2, 0)), 0.24, 0.012),
    "flute": Timbre(((1, 1.0, 0), (2, 0.08, 0)), 0.36, 0.05, vibrato=0.003),
    "pluck": Timbre(
        ((1, 1.0, 3.5), (2, 0.6, 5.0), (3, 0.35, 7.0), (4, 0.2, 9.0), (5, 0.12, 11.0)), 0.34, 0.004
    ),
    "bell": Timbre(((1, 1.0, 2.0), (2.76, 0.3, 7.0), (4.07, 0.35, 9.0)), 0.34, 0.004),
}
ACCOMPANIMENT = {
    "bass": Timbre(((1, 1.0, 1.0), (2, 0.3, 2.0)), 0.14, 0.01),
    "pad": Timbre(((1, 1.0, 0), (2, 0.2, 0)), 0.04, 0.06),
}
TIMBRES = VOICES | ACCOMPANIMENT


@dataclass(frozen=True)
class Note:
    """One event: `timbre` is a key of `TIMBRES`, or `KICK` or `HAT`; times are in frames."""

    timbre: str
    first_frame: int
    n_frames: int
    midi: int = 0


def render(notes: Iterable[Note], n_frames: int) -> Samples:
    """The notes mixed, [n_frames · FRAME_SAMPLES]; what lies past the end is cut."""
    wav = np.zeros(n_frames * FRAME_SAMPLES, dtype=np.float32)
    for event in notes:
        start = event.first_frame * FRAME_SAMPLES
        part = wav[start : start + event.n_frames * FRAME_SAMPLES]
        part += samples(event.timbre, event.midi, event.n_frames)[: len(part)]
    return wav


def frequency_hz(midi: float) -> float:
    """Of a note number, in equal temperament."""
    return float(A4_HZ * 2 ** ((midi - A4_MIDI) / 12))


@lru_cache(CACHED_NOTES)
def samples(timbre: str, midi: int, n_frames: int) -> Samples:
    """One event alone, [n_frames · FRAME_SAMPLES]; callers must not write into it."""
    n = n_frames * FRAME_SAMPLES
    time_s = np.arange(n) / SAMPLE_RATE_HZ
    if timbre == KICK:
        swept_hz = 45 + 90 * np.exp(-30 * time_s)
        phase = 2 * np.pi * np.cumsum(swept_hz) / SAMPLE_RATE_HZ
        wav = 0.3 * np.sin(phase) * np.exp(-14 * time_s)
    elif timbre == HAT:
        noise = np.random.default_rng(0).standard_normal(n)  # the same burst every time
        wav = 0.04 * np.diff(noise, prepend=0.0) * np.exp(-60 * time_s)
    else:
        wav = _tone(TIMBRES[timbre], frequency_hz(midi), time_s)
    release = np.minimum(1.0, (n - np.arange(n)) / (RELEASE_S * SAMPLE_RATE_HZ))
    return np.asarray(wav * release, dtype=np.float32)


def _tone(timbre: Timbre, hz: float, time_s: NDArray[np.float64]) -> NDArray[np.float64]:
    wobble = timbre.vibrato * np.sin(2 * np.pi * 5.5 * time_s)
    phase = 2 * np.pi * hz * np.cumsum(1 + wobble) / SAMPLE_RATE_HZ
    wav = np.zeros_like(time_s)
    for ratio, level, decay in timbre.partials:
        if ratio * hz < SAMPLE_RATE_HZ / 2:
            wav += level * np.sin(ratio * phase) * np.exp(-decay * time_s)
    attack = np.minimum(1.0, time_s / timbre.attack_s)
    return timbre.level * attack * wav
