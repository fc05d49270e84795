"""Makes the reference audio of `demo.jsonl`: short mono files from a small additive synthesiser.

Run `python manifests/examples/make_audio.py` to write them again. The tunes are scales, arpeggios
and a theme of 1824 (Beethoven, "Ode to Joy"), so nobody's rights are touched.
"""

from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

SAMPLE_RATE_HZ = 16_000
FOLDER = Path(__file__).parent / "audio"
Samples = NDArray[np.float64]  # [N], 1.0 = full scale

A4_HZ, A4_MIDI = 440.0, 69
SCALE = [60, 62, 64, 65, 67, 69, 71, 72]
ODE = [64, 64, 65, 67, 67, 65, 64, 62, 60, 60, 62, 64, 64, 62, 62]
MINOR_ARPEGGIO = [45, 52, 57, 60, 57, 52, 45, 52]
CHORDS = [[57, 60, 64], [53, 57, 60], [55, 59, 62]]


def note(midi: int, duration_s: float, partials: int = 4) -> Samples:
    """One plucked note: harmonics that fall off with their number, under a decaying envelope."""
    time_s = np.arange(round(duration_s * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    hz = A4_HZ * 2 ** ((midi - A4_MIDI) / 12)
    harmonics = sum(np.sin(2 * np.pi * hz * n * time_s) / n**2 for n in range(1, partials + 1))
    attack = np.minimum(1.0, time_s / 0.01)
    release = np.minimum(1.0, (duration_s - time_s) / 0.02)
    return np.asarray(0.4 * harmonics * attack * release * np.exp(-1.5 * time_s))


def tune(notes: list[int], note_s: float) -> Samples:
    """Notes one after the other."""
    return np.concatenate([note(midi, note_s) for midi in notes])


def chords(progression: list[list[int]], chord_s: float) -> Samples:
    """Chords one after the other."""
    stacked = [sum(note(midi, chord_s) for midi in chord) for chord in progression]
    return np.asarray(np.concatenate(stacked) / 3)


def beat(beats: int, beat_s: float) -> Samples:
    """A falling sine as the kick and, between two kicks, a short burst of noise."""
    rng = np.random.default_rng(0)
    half = round(beat_s / 2 * SAMPLE_RATE_HZ)
    time_s = np.arange(half) / SAMPLE_RATE_HZ
    kick = 0.8 * np.sin(2 * np.pi * 8 * np.exp(-12 * time_s)) * np.exp(-8 * time_s)
    hat = 0.1 * rng.standard_normal(half) * np.exp(-60 * time_s)
    return np.tile(np.concatenate([kick, hat]), beats)


def main() -> None:
    """Writes every file."""
    FOLDER.mkdir(exist_ok=True)
    files = {
        "scale.flac": tune(SCALE, 0.25),
        "ode.flac": tune(ODE, 0.2),
        "arpeggio.flac": tune(MINOR_ARPEGGIO, 0.25),
        "drums.flac": beat(2, 0.5),
        "chords.flac": chords(CHORDS, 0.5),
    }
    for name, samples in files.items():
        soundfile.write(FOLDER / name, samples, SAMPLE_RATE_HZ, subtype="PCM_16")


if __name__ == "__main__":
    main()
