"""The references of a clip: fetched, decoded, and turned into what the model hears of them."""

from functools import lru_cache
from threading import Lock
from typing import TYPE_CHECKING

from manifests.audio_file import check_audible, load_reference, locate, peak_of
from manifests.row_errors import UnsuitableRowError
from musicgen.checkpoints.describe import ModelInfo
from musicgen.config import n_frames
from musicgen.windows import Window, plan_windows, stride_frames
from pipeline.planning.clips import PlannedClip
from pipeline.planning.expand import PlanSpec
from pipeline.planning.model_limits import check_audio
from pipeline.prepare.prepared import PreparedClip, Samples

if TYPE_CHECKING:
    from pipeline.prepare.analysis import ReferenceAnalyzer

KEPT_REFERENCES = 8


class ReferenceReader:
    """Makes planned clips ready for a replica. Safe for several threads.

    Args:
        spec: The plan, for storage options and the separator.
        info: The model.
    """

    def __init__(self, spec: PlanSpec, info: ModelInfo) -> None:
        self._spec, self._info = spec, info
        self._window_frames = n_frames(round(info.max_duration_s * 1e6), info.frame_rate_hz)
        self._analyzer: ReferenceAnalyzer | None = None
        self._lock = Lock()
        # The takes of a row share its references.
        self._decoded = lru_cache(maxsize=KEPT_REFERENCES)(self._decode)

    @property
    def analyzer(self) -> "ReferenceAnalyzer":
        """Made when the first reference asks for it, since it loads torch."""
        from pipeline.prepare.analysis import ReferenceAnalyzer

        with self._lock:
            if self._analyzer is None:
                separation = self._spec.limits.separation
                self._analyzer = ReferenceAnalyzer(self._info, separation, self._window_frames)
            return self._analyzer

    def prepare(self, clip: PlannedClip) -> PreparedClip:
        """Fetches and analyses what a clip needs.

        Raises:
            ValueError: The row's own fault, in words for its dead letter.
        """
        params = clip.spec.params
        frames = n_frames(params.duration_us, self._info.frame_rate_hz)
        continuation, n_given = None, 0
        if "continuation" in clip.references:
            continuation = self.analyzer.at_rate(*self._suitable(clip, "continuation"))  # [C, N]
            n_given = -(-continuation.shape[-1] // self._info.hop_samples)
        windows = self._windows(clip, frames, n_given)
        melody = style = separation = None
        if "melody" in clip.references:
            separation = self.analyzer.separation
            melody = self.analyzer.melody(*self._suitable(clip, "melody"), windows)
        if "style" in clip.references:
            style = self.analyzer.at_rate(*self._suitable(clip, "style"))
        return PreparedClip(
            spec=clip.spec,
            n_frames=frames,
            n_windows=len(windows),
            separation=separation,
            melody=melody,
            continuation=continuation,
            style=style,
        )

    def _windows(self, clip: PlannedClip, frames: int, n_given: int) -> tuple[Window, ...]:
        """The windows in which the clip will be made."""
        stride, window = None, self._window_frames
        try:
            if frames > window:
                stride = stride_frames(
                    clip.spec.params.extend_stride_s, self._info.frame_rate_hz, window
                )
            return plan_windows(frames, window=window, stride=stride, n_prompt=n_given)
        except ValueError as error:
            raise UnsuitableRowError(str(error)) from error

    def _samples(self, clip: PlannedClip, role: str) -> tuple[Samples, int]:
        """Samples [C, N] of a reference and their rate."""
        place = locate(clip.references[role], clip.manifest_uri)
        return self._decoded(place, clip.spec.references[role])

    def _decode(self, place: str | bytes, token: str) -> tuple[Samples, int]:
        return load_reference(place, self._spec.access, token)

    def _suitable(self, clip: PlannedClip, role: str) -> tuple[Samples, int]:
        """The same, if the model can use it for this clip."""
        wav, rate_hz = self._samples(clip, role)
        check_audible(role, peak_of(wav))
        check_audio(self._info, role, wav.shape[1], rate_hz, clip.spec.params)
        return wav, rate_hz
