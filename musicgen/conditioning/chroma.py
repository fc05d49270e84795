"""The chromagram of a melody: which of the twelve pitch classes is the loudest in each frame."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from musicgen.audio import resample
from musicgen.conditioning.separation import Separator, separation_name
from musicgen.config import ChromaConfig
from musicgen.windows import Window

A0_HZ = 27.5  # pitches are counted from here
A_IS_BIN = 9  # the bin of A where bin 0 is C
CENTRE_OCTAVES, SPREAD_OCTAVES = 5.0, 2.0  # bins near 880 Hz weigh most


class ChromaExtractor:
    """Computes the loudest pitch class of each frame of a melody, as AudioCraft's ChromaExtractor.

    It takes one melody at a time, so that none is padded to the length of another.

    Args:
        config: Parameters of the chromagram.
        separator: Extracts the melody from a mix first; None takes the mix as it is.
    """

    def __init__(self, config: ChromaConfig, separator: Separator | None = None) -> None:
        self.config = config
        self.separator = separator
        # float64 throughout: the winner among close pitch classes must not depend on the machine.
        self.window = torch.hann_window(config.n_fft, dtype=torch.float64)
        self.fbanks = chroma_filter_bank(config.sample_rate_hz, config.n_fft, config.n_chroma)

    def __call__(self, wav: Tensor, sample_rate_hz: int) -> Tensor:
        """Pitch class of every frame of `wav` [C, N], at most `chroma_length` of them: int64 [n].

        Silence is pitch class 0, as in AudioCraft.

        Raises:
            ValueError: `wav` is empty or not finite.
        """
        return self._classes(*self._lead(wav, sample_rate_hz))

    @property
    def separation(self) -> str:
        """Name of the separation, for the provenance of a clip."""
        return separation_name(self.separator)

    def _lead(self, wav: Tensor, sample_rate_hz: int) -> tuple[Tensor, int]:
        """The audio that carries the melody of `wav` [C, N], and its sample rate."""
        self._check(wav)
        if self.separator is None:
            return wav, sample_rate_hz
        rate = self.config.sample_rate_hz
        mono = resample(wav.double().mean(dim=0, keepdim=True), sample_rate_hz, rate).float()
        return self.separator(mono, rate), rate

    def _classes(self, wav: Tensor, sample_rate_hz: int) -> Tensor:
        return self.energies(wav, sample_rate_hz).argmax(dim=-1)[: self.config.chroma_length]

    def windows(
        self,
        wav: Tensor,
        sample_rate_hz: int,
        windows: Sequence[Window],
        *,
        frame_rate_hz: int,
        window_frames: int,
    ) -> Tensor:
        """Pitch classes of a clip made in several windows: int64 [W, chroma_length].

        The waveform is repeated without end, and each window takes a full window's length of it
        from where the window begins in the clip, as in AudioCraft. (In a clip of one window the
        frames are repeated instead of the waveform.)

        Args:
            wav: The melody [C, N].
            sample_rate_hz: Its sample rate.
            windows: The windows of the clip.
            frame_rate_hz: Frame rate in which windows are counted.
            window_frames: Frames of a full window.
        """
        rate = self.config.sample_rate_hz
        lead, lead_rate = self._lead(wav, sample_rate_hz)  # separated once, before it is repeated
        mono = resample(lead.double().mean(dim=0), lead_rate, rate)  # [N]
        mono = mono if len(mono) else mono.new_zeros(1)
        offsets = torch.arange(window_frames * rate // frame_rate_hz)
        rows = []
        for window in windows:
            first = window.first_frame * rate // frame_rate_hz
            rolled = mono[(first + offsets) % len(mono)][None]  # [1, N]
            rows.append(tile(self._classes(rolled, rate), self.config.chroma_length))
        return torch.stack(rows)  # [W, chroma_length]

    def n_heard(
        self,
        sample_rate_hz: int,
        windows: Sequence[Window],
        *,
        frame_rate_hz: int,
        window_frames: int,
    ) -> int | None:
        """How many samples of a melody matter to a clip; None for all, where it is separated.

        Args:
            sample_rate_hz: The melody's sample rate.
            windows: The windows of the clip.
            frame_rate_hz: Frame rate in which windows are counted.
            window_frames: Frames of a full window.
        """
        if self.separator is not None:
            return None
        rate = self.config.sample_rate_hz
        if len(windows) == 1:
            return self._n_kept(sample_rate_hz)
        n_needed = (windows[-1].first_frame + window_frames) * rate // frame_rate_hz + 1
        return n_needed * sample_rate_hz // rate + sample_rate_hz

    def _n_kept(self, sample_rate_hz: int) -> int:
        """Later samples reach no frame that is kept (one second covers the resampler's kernel)."""
        n_needed = self.config.chroma_length * self.config.hop_length + self.config.n_fft
        return n_needed * sample_rate_hz // self.config.sample_rate_hz + sample_rate_hz

    def energies(self, wav: Tensor, sample_rate_hz: int) -> Tensor:
        """The energy of each pitch class, scaled to 1 for the loudest: float64 [n, n_chroma].

        The power spectrum of a Hann-windowed STFT, weighted by `chroma_filter_bank`.
        """
        n_fft, hop = self.config.n_fft, self.config.hop_length
        self._check(wav)
        mono = wav[:, : self._n_kept(sample_rate_hz)].double().mean(dim=0)
        mono = resample(mono, sample_rate_hz, self.config.sample_rate_hz)  # [N]
        missing = max(n_fft - mono.shape[-1], 0)
        mono = F.pad(mono, (missing // 2, missing - missing // 2))
        mono = F.pad(mono[None], (n_fft // 2, n_fft // 2), mode="reflect")[0]  # [n·hop + n_fft]
        spectrum = torch.stft(
            mono, n_fft, hop, window=self.window, center=False, return_complex=True
        )  # [F, n]
        power = spectrum.abs().square() / self.window.square().sum()
        energies = (self.fbanks @ power).T  # [n, n_chroma]
        return energies / energies.amax(dim=-1, keepdim=True).clamp(min=1e-6)

    @staticmethod
    def _check(wav: Tensor) -> None:
        if wav.ndim != 2 or 0 in wav.shape:
            raise ValueError(f"a melody is [channels, samples], not empty; got {list(wav.shape)}")
        if not wav.isfinite().all():
            raise ValueError("the melody holds NaN or infinite samples; store the audio again")


def tile(index: Tensor, length: int) -> Tensor:
    """Repeat the frames of a melody up to `length`, or cut them there: [n] -> [length]."""
    return index.repeat(-(-length // len(index)))[:length]


def chroma_filter_bank(sample_rate_hz: int, n_fft: int, n_chroma: int) -> Tensor:
    """The weight of each frequency bin in each pitch class, C first: [n_chroma, n_fft // 2 + 1].

    The formula is that of librosa.filters.chroma, which AudioCraft uses: a bin is a Gaussian over
    pitch classes, as wide as the bin itself but at least one class, with unit L2 norm, times a
    Gaussian over octaves that favours the range in which melodies lie.
    """
    n_bins = n_fft // 2 + 1
    hz = torch.arange(1, n_bins + 1, dtype=torch.float64) * sample_rate_hz / n_fft
    pitch = n_chroma * torch.log2(hz / A0_HZ)  # in classes above A0, bins 1 … n_bins
    pitch = torch.cat([pitch[:1] - 1.5 * n_chroma, pitch])  # the constant bin: far below the rest
    width = pitch.diff().clamp(min=1.0)  # [n_bins]
    pitch = pitch[:-1]
    classes = torch.arange(n_chroma, dtype=torch.float64)[:, None]
    half = round(n_chroma / 2)
    distance = torch.remainder(pitch - classes + half, n_chroma) - half  # [n_chroma, n_bins]
    weights = torch.exp(-2 * (distance / width).square())
    weights = weights / weights.norm(dim=0)
    octaves = (pitch / n_chroma - CENTRE_OCTAVES) / SPREAD_OCTAVES
    weights = weights * torch.exp(-0.5 * octaves.square())
    from_c: Tensor = weights.roll(A_IS_BIN * n_chroma // 12, dims=0)
    return from_c
