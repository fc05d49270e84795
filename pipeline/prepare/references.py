"""The references of a clip: fetched, decoded, and turned into what the model hears of them."""

import math
from functools import lru_cache
from threading import Lock
from typing import TYPE_CHECKING

from manifests.schema import resolve_uri
from manifests.uris.references import read_uri
from musicgen.checkpoints.describe import ModelInfo
from musicgen.config import n_frames
from musicgen.windows import Window, plan_windows, stride_frames
from pipeline.audio.encode import decode_reference
from pipeline.planning.clips import (
    BadReferenceError,
    PlannedClip,
    UnreachableReferenceError,
    UnsuitableRowError,
)
from pipeline.planning.expand import PlanSpec
from pipeline.prepare.prepared import PreparedClip, Samples
from pipeline.storage import StorageError, redact

if TYPE_CHECKING:
    from pipeline.prepare.analysis import ReferenceAnalyzer

KEPT_REFERENCES = 8
SILENT_PEAK = 1e-4  # of a melody or style, full scale = 1


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
            continuation = self.analyzer.at_rate(*self._samples(clip, "continuation"))  # [C, N]
            n_given = -(-continuation.shape[-1] // self._info.hop_samples)
            if n_given >= frames:
                given_s = continuation.shape[-1] / self._info.sample_rate_hz
                raise UnsuitableRowError(
                    f"continuation has {given_s:.2f} s, but duration_s={params.duration_s:g} "
                    "includes it; raise duration_s or cut the audio"
                )
        windows = self._windows(clip, frames, n_given)
        melody = style = separation = None
        if "melody" in clip.references:
            separation = self.analyzer.separation
            heard = _audible("melody", self._samples(clip, "melody"))
            melody = self.analyzer.melody(*heard, windows)
        if "style" in clip.references:
            style = self.analyzer.at_rate(*_audible("style", self._samples(clip, "style")))
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
        given = clip.references[role]
        if isinstance(given, str):
            given = resolve_uri(given, clip.manifest_uri)
        return self._decoded(given)

    def _decode(self, reference: str | bytes) -> tuple[Samples, int]:
        if isinstance(reference, bytes):
            data, where = reference, "embedded audio"
        else:
            where = redact(reference)
            try:
                data = read_uri(reference, self._spec.storage_options)
            except StorageError as error:  # it was there when it was planned
                raise UnreachableReferenceError(f"{error}; then `retry`") from error
        try:
            return decode_reference(data, where)
        except ValueError as error:
            raise BadReferenceError(str(error)) from error


def _audible(role: str, reference: tuple[Samples, int]) -> tuple[Samples, int]:
    """The reference as it is, unless nothing can be heard in it: a model would follow the zeros."""
    wav = reference[0]
    if max(wav.max(), -wav.min()) < SILENT_PEAK:
        raise BadReferenceError(
            f"the {role} is silent (its peak is below {20 * math.log10(SILENT_PEAK):.0f} dBFS): "
            f"there is nothing to follow; give another file, or leave the {role} empty"
        )
    return reference
