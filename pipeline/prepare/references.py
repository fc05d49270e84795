"""The references of a row: fetched, decoded, and turned into what the model hears of them.

This runs in processes of its own (`manifests.isolation`): no reference can harm another row. They
are forked from one that imports this module, and with it neither pyarrow nor anything else that
starts a thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from manifests.audio_file import AudioStream, check_audible, name_of, open_reference
from manifests.isolation.server import Note
from manifests.row_errors import RowError, UnsuitableRowError
from manifests.schema import EffectiveParams
from manifests.uris.policy import ReferenceAccess
from musicgen.checkpoints.describe import ModelInfo
from musicgen.config import n_frames
from musicgen.windows import Window, plan_windows, stride_frames
from pipeline.planning.audio_limits import check_audio

if TYPE_CHECKING:
    from pipeline.prepare.analysis import ReferenceAnalyzer
    from pipeline.prepare.prepared import PitchClasses, Samples, Tune

READER = f"{__name__}:make_reader"
TUNE_READER = f"{__name__}:make_tune_reader"


@dataclass(frozen=True)
class RowReferences:
    """What all that a reader does for a row depends on; the same for all takes.

    Attributes:
        places: Role to the whole URI of the reference, or its bytes where it is embedded.
        tokens: Role to the token of the content.
        params: Of the clip.
    """

    places: Mapping[str, str | bytes]
    tokens: Mapping[str, str]
    params: EffectiveParams

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for rows whose references are one piece of work."""
        places = [
            (role, token, place if isinstance(place, str) else None)
            for (role, place), token in zip(self.places.items(), self.tokens.values(), strict=True)
        ]
        params = self.params
        return (*places, params.duration_us, params.extend_stride_s, params.style_excerpt_s)


@dataclass(frozen=True, eq=False)
class HeardRow:
    """What the model hears of a row's references, and what follows from their length: fields of
    `PreparedClip`."""

    n_frames: int
    n_windows: int = 1
    separation: str | None = None
    melody: PitchClasses | None = None
    continuation: Samples | None = None
    style: Samples | None = None
    tune: Tune | None = None


class WindowPlanner:
    """Tells in which windows a clip is made.

    Args:
        info: The model.
    """

    def __init__(self, info: ModelInfo) -> None:
        self._frame_rate_hz = info.frame_rate_hz
        self._stride_s = info.stride_s
        self.window_frames = n_frames(round(info.max_duration_s * 1e6), info.frame_rate_hz)

    def n_frames(self, params: EffectiveParams) -> int:
        """Length of the clip in frames of the codec."""
        return n_frames(params.duration_us, self._frame_rate_hz)

    def windows(self, params: EffectiveParams, n_given: int = 0) -> tuple[Window, ...]:
        """The windows of a clip that begins with `n_given` frames of a continuation."""
        frames, stride = self.n_frames(params), None
        try:
            if frames > self.window_frames:
                stride_s = self._stride_s(params.extend_stride_s)
                stride = stride_frames(stride_s, self._frame_rate_hz, self.window_frames)
            return plan_windows(frames, window=self.window_frames, stride=stride, n_prompt=n_given)
        except ValueError as error:
            raise UnsuitableRowError(str(error)) from error

    def without_references(self, params: EffectiveParams) -> HeardRow:
        """A row with nothing to hear."""
        return HeardRow(self.n_frames(params), len(self.windows(params)))


class ReferenceReader:
    """Reads the references of rows, one row at a time.

    Args:
        access: How references may be opened.
        info: The model.
        separation: What melodies are heard through, by name; None: the plain mix.
        tunes: Whether a scorer wants to hear melodies too.
    """

    def __init__(
        self,
        access: ReferenceAccess,
        info: ModelInfo,
        separation: str | None,
        tunes: bool = False,
    ) -> None:
        self._access, self._info, self._separation = access, info, separation
        self._tunes = tunes
        self._planner = WindowPlanner(info)
        self._analyzer: ReferenceAnalyzer | None = None

    @property
    def analyzer(self) -> ReferenceAnalyzer:
        """Made when it is asked for, since it loads torch."""
        from pipeline.prepare.analysis import ReferenceAnalyzer

        if self._analyzer is None:
            window_frames = self._planner.window_frames
            self._analyzer = ReferenceAnalyzer(self._info, self._separation, window_frames)
        return self._analyzer

    def read(self, row: RowReferences, note: Note = lambda where: None) -> HeardRow:
        """Fetches and analyses what a row needs.

        Args:
            row: Its references.
            note: Is told which one is about to be read.

        Raises:
            RowError: The row's own fault, in words for its dead letter.
        """
        frames = self._planner.n_frames(row.params)
        continuation, n_given = None, 0
        if "continuation" in row.places:
            # The first frames of the clip are this audio; what would fill the clip is refused.
            n_most = frames * self._info.hop_samples
            continuation = self._samples(row, "continuation", note, n_most)
            n_given = -(-continuation.shape[-1] // self._info.hop_samples)
        windows = self._planner.windows(row.params, n_given)
        melody = style = separation = tune = None
        if "melody" in row.places:
            separation = self.analyzer.separation
            with self._open(row, "melody", note) as audio:
                mono = self.analyzer.mono(audio, windows)
            melody = self.analyzer.melody(mono, windows)
            if self._tunes:
                place, token = row.places["melody"], row.tokens["melody"]
                tune = read_tune(place, self._access, token, row.params.duration_s)
        if "style" in row.places:
            style = self._samples(row, "style", note)
        return HeardRow(frames, len(windows), separation, melody, continuation, style, tune)

    def _samples(
        self, row: RowReferences, role: str, note: Note, n_most: int | None = None
    ) -> Samples:
        """A reference [C, N] at the model's own rate and channels.

        Args:
            n_most: Samples at the model's rate with which it is refused anyway; None: as many as
                there are.
        """
        with self._open(row, role, note) as audio:
            n_kept = audio.n_declared
            if n_most is not None:
                n_kept = min(n_kept, n_most * audio.rate_hz // self._info.sample_rate_hz + 1)
            samples = self.analyzer.samples(audio, n_kept)
        return samples

    @contextmanager
    def _open(self, row: RowReferences, role: str, note: Note) -> Iterator[AudioStream]:
        """Opens a reference; what the model can't use for this clip is refused at the end, once all
        of it is decoded."""
        place = row.places[role]
        note(name_of(place))
        with open_reference(place, self._access, row.tokens[role]) as audio:
            try:
                yield audio
            except RowError:
                raise
            except ValueError:  # its rate can't be resampled; another fault of it goes first
                for _ in audio.blocks():
                    continue
                self._check(row, role, audio)
                raise
            self._check(row, role, audio)

    def _check(self, row: RowReferences, role: str, audio: AudioStream) -> None:
        check_audible(role, audio.peak)
        check_audio(self._info, role, audio.n_samples, audio.rate_hz, row.params)


def read_tune(
    place: str | bytes, access: ReferenceAccess, token: str | None, duration_s: float
) -> Tune:
    """A melody as scorers hear it, over the length of a clip: see `analysis.tune_of`."""
    from pipeline.prepare.analysis import tune_of

    with open_reference(place, access, token) as audio:
        return tune_of(audio, duration_s)


class TuneWork(NamedTuple):
    """A melody whose tune is wanted; arguments of `read_tune`."""

    place: str | bytes
    token: str | None
    duration_s: float


def make_tune_reader(access: ReferenceAccess) -> Callable[[TuneWork, Note], Tune]:
    """As `make_reader`, for clips that stand: reads melodies for scorers alone."""
    import soundfile  # noqa: F401  # before a process is forked

    import pipeline.prepare.analysis  # noqa: F401  # likewise

    def read(work: TuneWork, note: Note) -> Tune:
        note(name_of(work.place))
        return read_tune(work.place, access, work.token, work.duration_s)

    return read


def make_reader(
    access: ReferenceAccess, info: ModelInfo, separation: str | None, tunes: bool = False
) -> Callable[[RowReferences, Note], HeardRow]:
    """What the processes of a prepare actor do (see `manifests.isolation`)."""
    import soundfile  # noqa: F401  # before a process is forked

    reader = ReferenceReader(access, info, separation, tunes)
    _ = reader.analyzer  # likewise
    return reader.read
