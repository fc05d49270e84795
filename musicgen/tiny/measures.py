"""What is measured of music: signal to noise, chroma, pitch track, joints, voices."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from musicgen.conditioning.chroma import ChromaExtractor
from musicgen.config import ChromaConfig
from musicgen.tiny.synth import A4_HZ, A4_MIDI, FRAME_SAMPLES, SAMPLE_RATE_HZ

# Of the melody condition too. A frame of it lasts 7 of the codec's: in sinusoidal positions of
# width 144 each frequency is 0.878 of the one before, and the 15th after it is a seventh:
# `alignment` needs that.
HOP_FRAMES = 7
N_FFT, HOP_LENGTH, N_CHROMA = 4096, HOP_FRAMES * FRAME_SAMPLES, 12
QUIET = 0.003  # RMS under which a frame counts as silent

TRACK_FFT, TRACK_WINDOW, TRACK_HOP, TRACK_MEDIAN = 4096, 1024, 320, 5
TRACK_RANGE_HZ = (240.0, 1040.0)  # C4 … B5
FAST_FROM = 2.7  # changes per second; slow pieces have up to 2.4, fast ones 3.0 and more

JOINT_S = 0.5  # what lies on either side of a joint
JOINT_HOP_S = 0.125  # between the points that a joint is compared with

RIDGE = 1e-2


def chroma_config(max_duration_s: float) -> ChromaConfig:
    """How the tiny model hears a melody: one frame per 140 ms."""
    n_frames = 1 + int(max_duration_s * SAMPLE_RATE_HZ) // HOP_LENGTH
    return ChromaConfig(N_FFT, HOP_LENGTH, N_CHROMA, n_frames, SAMPLE_RATE_HZ)


def si_snr_db(heard: Tensor, wanted: Tensor) -> float:
    """Scale-invariant signal to noise of `heard` [N] as `wanted` [N]."""
    heard, wanted = heard.double() - heard.double().mean(), wanted.double() - wanted.double().mean()
    target = (heard @ wanted) / (wanted @ wanted).clamp(min=1e-12) * wanted
    noise = (heard - target).square().sum().clamp(min=1e-12)
    return float(10 * torch.log10(target.square().sum().clamp(min=1e-12) / noise))


def pitch_classes(wav: Tensor) -> NDArray[np.int64]:
    """Strongest pitch class of every frame of `wav` [N], -1 where it is silent: [n]."""
    seconds = len(wav) / SAMPLE_RATE_HZ
    classes = ChromaExtractor(chroma_config(seconds))(wav[None], SAMPLE_RATE_HZ).numpy().copy()
    starts = np.arange(len(classes)) * HOP_LENGTH - HOP_LENGTH // 2
    for index, start in enumerate(starts):
        part = wav[max(start, 0) : start + HOP_LENGTH]
        if not len(part) or float(part.square().mean().sqrt()) < QUIET:
            classes[index] = -1
    return np.asarray(classes)


def scale_share(classes: NDArray[np.int64], scale: Iterable[int]) -> float:
    """Share of the frames that sound whose strongest pitch class lies in `scale`; 0 of none."""
    sounding = classes[classes >= 0]
    return float(np.isin(sounding, list(scale)).mean()) if len(sounding) else 0.0


def chroma_agreement(classes: NDArray[np.int64], reference: NDArray[np.int64]) -> float:
    """Share of the frames whose strongest pitch class is the reference's."""
    n = min(len(classes), len(reference))
    return float((classes[:n] == reference[:n]).mean())


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


def joint_excesses(
    wav: Tensor, joints_s: Sequence[float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The jump at each joint of `wav` [N], over the median jump elsewhere: [joints]; and the same
    at all those other points: [n], which is what a joint that can't be told from them has.

    A jump is the change of level (in dB) or of chroma (the cosine distance) from the half second
    before a point to the half second after it; the larger of the two ratios counts.
    """
    seconds = len(wav) / SAMPLE_RATE_HZ
    everywhere = np.arange(JOINT_S, seconds - JOINT_S, JOINT_HOP_S)
    inside = [s for s in everywhere if min(abs(s - joint) for joint in joints_s) > JOINT_S]
    elsewhere = np.array([_jumps(wav, s) for s in inside])  # [n, 2]
    usual = np.maximum(np.median(elsewhere, axis=0), 1e-6)  # [2]
    at_joints = np.array([_jumps(wav, joint) for joint in joints_s])
    return (at_joints / usual).max(axis=1), (elsewhere / usual).max(axis=1)


def _jumps(wav: Tensor, at_s: float) -> tuple[float, float]:
    n, at = round(JOINT_S * SAMPLE_RATE_HZ), round(at_s * SAMPLE_RATE_HZ)
    sides = [wav[max(at - n, 0) : at].double(), wav[at : at + n].double()]
    levels = [10 * torch.log10(side.square().mean() + 1e-8) for side in sides]
    extractor = ChromaExtractor(chroma_config(JOINT_S))
    chroma = [extractor.energies(side[None], SAMPLE_RATE_HZ).mean(dim=0) for side in sides]
    likeness = torch.nn.functional.cosine_similarity(chroma[0], chroma[1], dim=0)
    return abs(float(levels[0] - levels[1])), float(1 - likeness)


@dataclass(frozen=True)
class VoiceClassifier:
    """Which voice plays, by a linear reading of the spectrum and of how it moves."""

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
