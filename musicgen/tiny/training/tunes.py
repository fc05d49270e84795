"""Writes reference melodies for a manifest: old tunes, played by the synthesiser.

    python -m musicgen.tiny.training.tunes --output manifests/examples/audio

Each is a melody of the public domain, in a voice that the captions of a manifest can then replace.
"""

import argparse
from pathlib import Path

import numpy as np
import soundfile

from musicgen.tiny.music import SAMPLE_RATE_HZ
from musicgen.tiny.training.synth import HAT, KICK, Note, render

# Note numbers, each with its length in beats where that is not 1; frames of 20 ms per beat; voice.
Tune = tuple[str, int, str]
PEAK = 0.8

TUNES: dict[str, Tune] = {
    # Beethoven, Ninth Symphony (1824): C major.
    "ode": ("64 64 65 67 67 65 64 62 60 60 62 64 64:1.5 62:0.5 62:2", 24, "organ"),
    # "Frère Jacques" (about 1780): F major.
    "brother": ("65 67 69 65 65 67 69 65 69 70 72:2 69 70 72:2", 24, "pluck"),
    # "Greensleeves" (1580), its first phrase: A minor.
    "sleeves": ("69 72:2 74 76:1.5 77:0.5 76 74:2 71 67:1.5 69:0.5 71 72:2 69", 24, "flute"),
    "scale": ("60 62 64 65 67 69 71 72", 24, "bell"),
    "arpeggio": ("69 72 76 81 76 72 69 72 76 81 76 72 69 72 76 81 76 72 69", 10, "pluck"),
}


def notes(tune: Tune) -> tuple[list[Note], int]:
    """A tune as events, and its length in frames."""
    text, beat_frames, voice = tune
    events, frame = [], 0
    for step in text.split():
        midi, _, beats = step.partition(":")
        length = round(float(beats or 1) * beat_frames)
        events.append(Note(voice, frame, length, int(midi)))
        frame += length
    return events, frame


def drums(beats: int, beat_frames: int) -> tuple[list[Note], int]:
    """Nothing but kick and hat: a reference without a melody."""
    events = [Note(HAT if beat % 2 else KICK, beat * beat_frames, 12) for beat in range(beats)]
    return events, beats * beat_frames


def write_tunes(folder: Path) -> list[Path]:
    """Writes every tune as FLAC; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    made = {name: notes(tune) for name, tune in TUNES.items()} | {"drums": drums(8, 16)}
    paths = []
    for name, (events, n_frames) in made.items():
        wav = render(events, n_frames)
        path = folder / f"{name}.flac"
        level = PEAK / float(np.abs(wav).max())
        soundfile.write(path, level * wav, SAMPLE_RATE_HZ, subtype="PCM_16")
        paths.append(path)
    return paths


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("manifests/examples/audio"))
    write_tunes(parser.parse_args().output)


if __name__ == "__main__":
    main()
