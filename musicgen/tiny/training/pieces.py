"""Random pieces of music and their captions.

A piece is a key, a tempo, a voice that plays a melody, and perhaps bass, chords and drums. One in
eight combinations of key, tempo and voice is held out: only the evaluation uses them.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator

from musicgen.tiny.music import MODES, SAYS, TONICS, scale_of
from musicgen.tiny.training.synth import HAT, KICK, VOICES, Note, Samples, render

TEMPOS = {"slow": (24, 28, 32), "fast": (8, 10, 12)}  # frames of 20 ms per note
KEYS = tuple(f"{tonic} {mode}" for mode in MODES for tonic in TONICS)
LOWEST, HIGHEST = 60, 83  # C4 … B5: the melody's range
TRIAD = (0, 2, 4)  # degrees of the scale on which a melody rests
CHORDS = ((0, 3, 4, 0), (0, 5, 3, 4), (0, 4, 5, 3), (0, 3, 0, 4))  # roots, one per bar
NOTES_PER_BAR = 4
LONG_NOTES, LEAPS = 0.1, 0.2  # shares of the notes
WITH = {"bass": 0.35, "chords": 0.2, "drums": 0.25}  # shares of the pieces

KINDS = ("melody", "tune", "solo")
FILLERS = (
    "warm", "bright", "mellow", "gentle", "happy", "dreamy", "soft", "clear", "lo-fi", "acoustic",
    "with a little reverb", "for a quiet evening", "in a small room", "recorded on tape",
)  # fmt: skip
P_SAID = {"key": 0.85, "tempo": 0.92, "voice": 0.95, "filler": 0.15}


@dataclass(frozen=True)
class Piece:
    """One piece; `melody` is what a listener hums, `rest` what accompanies it."""

    tonic: int  # pitch class, C = 0
    mode: str
    voice: str
    tempo: str
    extras: tuple[str, ...]
    n_frames: int
    melody: tuple[Note, ...]
    rest: tuple[Note, ...]

    @property
    def key(self) -> str:
        """As captions call it."""
        return f"{TONICS[self.tonic]} {self.mode}"

    @property
    def scale(self) -> frozenset[int]:
        """Its seven pitch classes."""
        return scale_of(self.tonic, self.mode)

    def audio(self) -> Samples:
        """All of it, [N]."""
        return render((*self.melody, *self.rest), self.n_frames)

    def tune(self, voice: str) -> Samples:
        """The melody alone in some voice, [N]."""
        return render([replace(note, timbre=voice) for note in self.melody], self.n_frames)


def held_out(tonic: int, mode: str, voice: str, tempo: str) -> bool:
    """Whether training leaves this combination out: one voice and tempo of every key."""
    index = list(VOICES).index(voice) * 2 + list(TEMPOS).index(tempo)
    return index == (5 * tonic + 3 * list(MODES).index(mode)) % 8


def random_piece(rng: Generator, n_frames: int, *, unseen: bool = False) -> Piece:
    """A piece of training, or (`unseen`) of one of the combinations that training leaves out."""
    while True:
        tonic, mode = int(rng.integers(12)), str(rng.choice(list(MODES)))
        voice, tempo = str(rng.choice(list(VOICES))), str(rng.choice(list(TEMPOS)))
        if held_out(tonic, mode, voice, tempo) == unseen:
            break
    note_frames = int(rng.choice(TEMPOS[tempo]))
    extras = tuple(name for name, share in WITH.items() if rng.random() < share)
    melody = _melody(rng, tonic, mode, voice, note_frames, n_frames)
    rest = _accompaniment(rng, tonic, mode, extras, note_frames * NOTES_PER_BAR, n_frames)
    return Piece(tonic, mode, voice, tempo, extras, n_frames, melody, rest)


def excerpt(piece: Piece, first_frame: int, n_frames: int) -> Piece:
    """The piece from the first note that begins at or after `first_frame` on."""
    first_frame = min(
        (note.first_frame for note in piece.melody if note.first_frame >= first_frame), default=0
    )

    def moved(notes: tuple[Note, ...]) -> tuple[Note, ...]:
        return tuple(
            replace(note, first_frame=note.first_frame - first_frame)
            for note in notes
            if first_frame <= note.first_frame < first_frame + n_frames
        )

    return replace(piece, n_frames=n_frames, melody=moved(piece.melody), rest=moved(piece.rest))


def caption(piece: Piece, rng: Generator | None = None, *, key: bool = True) -> str:
    """The caption of a piece, the key first. Without `rng` it is complete and in its plain form."""
    if rng is None:
        start = f"{piece.key}, " if key else ""
        return f"{start}{piece.tempo} {piece.voice} melody{_with(piece.extras)}"
    words = []
    if rng.random() < P_SAID["tempo"]:
        words.append(str(rng.choice(SAYS[piece.tempo])))
    if rng.random() < P_SAID["filler"]:
        words.append(str(rng.choice(FILLERS)))
    if rng.random() < P_SAID["voice"]:
        words.append(piece.voice)
    words.append(str(rng.choice(KINDS)))
    said = " ".join(words) + _with(piece.extras)
    return f"{piece.key}, {said}" if key and rng.random() < P_SAID["key"] else said


def _with(extras: tuple[str, ...]) -> str:
    return " with " + " and ".join(extras) if extras else ""


def scale_note(tonic: int, mode: str, degree: int, base: int) -> int:
    """Note number of a degree (0 is the tonic, any integer) above `base`, a C."""
    octave, step = divmod(degree, 7)
    return base + tonic + 12 * octave + MODES[mode][step]


def _melody(
    rng: Generator, tonic: int, mode: str, voice: str, note_frames: int, n_frames: int
) -> tuple[Note, ...]:
    """A walk along the scale that begins on the tonic and rests on its triad; no note repeats."""
    pitches = {degree: scale_note(tonic, mode, degree, LOWEST) for degree in range(-7, 15)}
    allowed = [degree for degree, midi in pitches.items() if LOWEST <= midi <= HIGHEST]
    degree = int(rng.choice([degree for degree in allowed if degree % 7 == 0]))
    notes: list[Note] = []
    frame = 0
    while frame < n_frames:
        length = note_frames * (2 if rng.random() < LONG_NOTES else 1)
        notes.append(Note(voice, frame, length, pitches[degree]))
        frame += length
        rests = len(notes) % NOTES_PER_BAR == 0 or rng.random() < LEAPS
        near = [d for d in allowed if d != degree and abs(d - degree) <= (4 if rests else 2)]
        resting = [d for d in near if d % 7 in TRIAD]
        degree = int(rng.choice(resting if rests else near))
    return tuple(notes)


def _accompaniment(
    rng: Generator,
    tonic: int,
    mode: str,
    extras: tuple[str, ...],
    bar_frames: int,
    n_frames: int,
) -> tuple[Note, ...]:
    roots = CHORDS[int(rng.integers(len(CHORDS)))]
    notes: list[Note] = []
    for bar, frame in enumerate(range(0, n_frames, bar_frames)):
        root, beat = roots[bar % len(roots)], bar_frames // NOTES_PER_BAR
        if "bass" in extras:
            low = 36 + (scale_note(tonic, mode, root, 0) - 4) % 12 + 4  # E2 … D#3
            notes += [Note("bass", frame + half * 2 * beat, 2 * beat, low) for half in (0, 1)]
        if "chords" in extras:
            middle = [scale_note(tonic, mode, root + step, 0) for step in TRIAD]
            notes += [Note("pad", frame, bar_frames, 52 + (midi - 52) % 12) for midi in middle]
        if "drums" in extras:
            notes += [
                Note(HAT if step % 2 else KICK, frame + step * beat, min(beat, 12))
                for step in range(NOTES_PER_BAR)
            ]
    return tuple(notes)


def rng_of(*parts: int) -> Generator:
    """A generator of its own for everything that is random: seed, purpose, index."""
    return np.random.default_rng(parts)
