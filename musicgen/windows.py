"""Clips longer than the model's window: overlapping windows, in whole frames. Free of torch.

A window begins `stride` frames after the one before, so its first `window - stride` frames are the
last ones of that window; the last window ends with the clip and may be shorter.
"""

import math
from dataclasses import dataclass

from musicgen.config import ArgumentError, n_frames

LONGEST_STRIDE_S, STRIDE_SHARE = 18.0, 0.6  # of the default


@dataclass(frozen=True)
class Window:
    """One run of the language model within a clip.

    Attributes:
        index: Which one, from 0.
        first_frame: Where it begins in the clip.
        n_frames: Its length, the known frames at its beginning included.
        n_prompt: How many frames at its beginning are already known, less than `n_frames`.
    """

    index: int
    first_frame: int
    n_frames: int
    n_prompt: int

    @property
    def end(self) -> int:
        """The frame of the clip that follows its last one."""
        return self.first_frame + self.n_frames

    @property
    def n_new(self) -> int:
        """Frames that it adds to the clip."""
        return self.n_frames - self.n_prompt


def plan_windows(
    total: int, *, window: int, stride: int | None = None, n_prompt: int = 0
) -> tuple[Window, ...]:
    """The windows of a clip of `total` frames; each adds the frames after those of the one before.

    Args:
        total: Frames of the clip, its prompt included.
        window: Frames of one window at most.
        stride: Frames between the beginnings of two windows; None where the clip needs only one.
        n_prompt: Frames at the beginning of the clip that are given. Windows that would lie within
            them are left out.

    Raises:
        ValueError: The clip or its prompt is too long, or the stride leaves no overlap.
    """
    if total < 1:
        raise ValueError(f"n_frames={total} must be at least 1")
    if not 0 <= n_prompt < total:
        raise ArgumentError(
            f"the prompt has {n_prompt} frames, the whole clip only {total}; lengthen the clip or "
            "shorten the prompt"
        )
    if total <= window:
        return (Window(0, 0, total, n_prompt),)
    if stride is None:
        raise ValueError(f"n_frames={total} must lie in 1..{window}")
    if not 1 <= stride < window:
        raise ValueError(f"a stride of {stride} frames must lie in 1..{window - 1}")
    windows: list[Window] = []
    # Strides that a prompt longer than a window fills by itself.
    first = max(0, -(-(n_prompt - window + 1) // stride)) * stride
    known = n_prompt
    while known < total:
        length = min(window, total - first)
        windows.append(Window(len(windows), first, length, known - first))
        known = first + length
        first += stride
    return tuple(windows)


def default_stride_s(max_duration_s: float) -> float:
    """The default stride of a model whose windows have up to `max_duration_s` seconds.

    It is AudioCraft's 18 s for windows of 30 s, and the same share of a shorter window.
    """
    return min(LONGEST_STRIDE_S, STRIDE_SHARE * max_duration_s)


def stride_frames(extend_stride_s: float | None, frame_rate_hz: int, window: int | None) -> int:
    """`extend_stride_s` in frames, for a model whose windows have `window` frames.

    None is the default. Without a `window`, for a clip that needs only one, any positive stride
    will do.

    Raises:
        ValueError: It is not positive, or leaves no overlap between windows.
    """
    if extend_stride_s is None:
        window_s = math.inf if window is None else window / frame_rate_hz
        extend_stride_s = default_stride_s(window_s)
    if not (math.isfinite(extend_stride_s) and extend_stride_s > 0):
        raise ValueError(f"extend_stride={extend_stride_s} must be a number of seconds > 0")
    stride = n_frames(round(extend_stride_s * 1_000_000), frame_rate_hz)
    if window is not None and stride >= window:
        raise ArgumentError(
            f"extend_stride={extend_stride_s:g} s must be shorter than the model's window of "
            f"{window / frame_rate_hz:g} s; {STRIDE_SHARE * window / frame_rate_hz:g} s suits it"
        )
    return stride
