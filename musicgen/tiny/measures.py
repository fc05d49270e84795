"""Measures of the bundled model's music: its scale, its pitch track and tempo, its voice.

All take audio at 16 kHz. They know the music of that model and no other.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from musicgen.tiny.music import A4_HZ, A4_MIDI, SAMPLE_RATE_HZ

TRACK_FFT, TRACK_WINDOW, TRACK_HOP = 4096, 1024, 320  # samples
TRACK_MEDIAN = 5  # hops
TRACK_RANGE_HZ = (240.0, 1040.0)  # C4 … B5
FAST_FROM = 2.7  # changes per second; slow pieces have up to 2.4, fast ones 3.0 and more

RIDGE = 1e-2
VOICES_FILE = Path(__file__).parent / "voices.json"  # `training.voices` makes it


def scale_share(classes: NDArray[np.int64], scale: Iterable[int]) -> float:
    """Share of the frames whose strongest pitch class lies in `scale`; a silent one has none."""
    return float(np.isin(classes, list(scale)).mean())


def pitch_track(wav: Tensor) -> NDArray[np.int64]:
    """Note number of the strongest peak in the melody's range, every 20 ms, median-filtered."""
    window = torch.hann_window(TRACK_WINDOW)
    spectrum = torch.stft(
        wav.float(), TRACK_FFT, TRACK_HOP, TRACK_WINDOW, window, return_complex=True
    ).abs()  # [F, n]
    hz = torch.arange(spectrum.shape[0]) * SAMPLE_RATE_HZ / TRACK_FFT
    inside = (hz >= TRACK_RANGE_HZ[0]) & (hz <= TRACK_RANGE_HZ[1])
    peak_hz = hz[inside][spectrum[inside].argmax(dim=0)]
    midi = (A4_MIDI + 12 * torch.log2(peak_hz / A4_HZ)).round()
    side = TRACK_MEDIAN // 2
    padded = torch.nn.functional.pad(midi[None, None], (side, side), mode="replicate")[0, 0]
    return np.asarray(padded.unfold(0, TRACK_MEDIAN, 1).median(dim=-1).values.long().numpy())


def changes_per_second(wav: Tensor) -> float:
    """How often the pitch track of `wav` [N] changes."""
    track = pitch_track(wav)
    return float((np.diff(track) != 0).sum() / (len(wav) / SAMPLE_RATE_HZ))


def tempo_of(wav: Tensor) -> str:
    """`fast` or `slow`, by the pitch track."""
    return "fast" if changes_per_second(wav) >= FAST_FROM else "slow"


@dataclass(frozen=True)
class VoiceClassifier:
    """A linear classifier of voices, on features of the spectrum and of its change over time."""

    voices: tuple[str, ...]
    mean: NDArray[np.float64]  # [F]
    spread: NDArray[np.float64]  # [F]
    weights: NDArray[np.float64]  # [F + 1, voices]

    @classmethod
    def fit(cls, clips: Sequence[tuple[Tensor, str]]) -> "VoiceClassifier":
        """Learns from audio [N] and the name of its voice: ridge regression on one-hot names."""
        voices = tuple(sorted({voice for _, voice in clips}))
        features = np.stack([voice_features(wav) for wav, _ in clips])  # [M, F]
        mean, spread = features.mean(axis=0), features.std(axis=0) + 1e-6
        x = np.column_stack([(features - mean) / spread, np.ones(len(clips))])  # [M, F + 1]
        y = np.array([[voice == name for name in voices] for _, voice in clips], dtype=float)
        weights = np.linalg.solve(x.T @ x + RIDGE * len(clips) * np.eye(x.shape[1]), x.T @ y)
        return cls(voices, mean, spread, weights)

    def __call__(self, wav: Tensor) -> str:
        """The voice of `wav` [N]."""
        x = np.append((voice_features(wav) - self.mean) / self.spread, 1.0)
        return self.voices[int((x @ self.weights).argmax())]

    def to_json(self) -> str:
        """For VOICES_FILE: rounded, so that the file is the same on every machine."""
        columns = {name: np.asarray(value) for name, value in asdict(self).items()}
        told = {
            name: value.tolist() if value.dtype.kind == "U" else value.round(6).tolist()
            for name, value in columns.items()
        }
        return json.dumps(told, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "VoiceClassifier":
        """The classifier that `to_json` wrote."""
        told = json.loads(text)
        voices = tuple(told.pop("voices"))
        return cls(voices, **{name: np.asarray(value) for name, value in told.items()})


@cache
def shipped_voices() -> VoiceClassifier:
    """The classifier that comes with the bundled model."""
    return VoiceClassifier.from_json(VOICES_FILE.read_text(encoding="utf-8"))


def voice_features(wav: Tensor) -> NDArray[np.float64]:
    """Levels of the harmonics over the pitch, and how the loudness moves: [F]."""
    window = torch.hann_window(TRACK_WINDOW)
    spectrum = torch.stft(
        wav.float(), TRACK_FFT, TRACK_HOP, TRACK_WINDOW, window, return_complex=True
    ).abs()  # [F, n]
    track = torch.from_numpy(pitch_track(wav))[: spectrum.shape[1]]  # [n]
    hz = A4_HZ * 2 ** ((track - A4_MIDI) / 12)
    columns = torch.arange(len(track))
    levels = []
    for ratio in (1.0, 2.0, 2.76, 3.0, 4.07, 5.0):
        bins = (ratio * hz * TRACK_FFT / SAMPLE_RATE_HZ).round().long()
        near = torch.stack([spectrum[(bins + d).clamp(max=spectrum.shape[0] - 1), columns]
                            for d in range(-3, 4)])  # fmt: skip
        levels.append(near.amax(dim=0))
    harmonics = torch.stack(levels)  # [6, n]
    ratios = (harmonics[1:] + 1e-3).log() - (harmonics[0] + 1e-3).log()  # [5, n]
    loud = spectrum.square().sum(dim=0).clamp(min=1e-6).log()  # [n]
    moves = loud[5:] - loud[:-5]  # over a tenth of a second
    shape = torch.stack([moves.std(), moves.median(), (moves < -0.2).float().mean(), loud.std()])
    quartiles = torch.quantile(ratios, torch.tensor([0.25, 0.5, 0.75]), dim=1).flatten()
    return np.asarray(torch.cat([quartiles, shape]).double().numpy())
