"""Makers of patterns under AudioCraft's names.

The engine runs the delay pattern (parallel codebooks are its case without delays), which every
released model has. The other patterns are tables for scripts that lay out tokens themselves.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch

from musicgen.config import ArgumentError
from musicgen.lm.delay_pattern import n_steps
from musicgen.lm.patterns import Pattern


class CodebooksPatternProvider(ABC):
    """Makes the pattern of any number of frames."""

    def __init__(self, n_q: int) -> None:
        self.n_q = n_q

    @abstractmethod
    def get_pattern(self, timesteps: int) -> Pattern:
        """The pattern of so many frames."""

    def _of_steps(self, steps: Sequence[Sequence[tuple[int, int]]], timesteps: int) -> Pattern:
        """The pattern whose steps hold these (frame, codebook)."""
        frames = torch.full((self.n_q, len(steps)), -1)
        for step, held in enumerate(steps):
            for frame, book in held:
                frames[book, step] = frame
        return Pattern(frames, timesteps)


class DelayedPatternProvider(CodebooksPatternProvider):
    """Codebook k lags by `delays[k]` steps; the pattern of `musicgen.lm.delay_pattern`.

    Args:
        n_q: Codebooks K.
        delays: In steps, one per codebook, not decreasing; None is 0, 1, 2, …
        flatten_first: So many frames come first, without delays and one codebook to a step.
        empty_initial: Empty steps beside the first, which is empty in any case; below 0, the first
            step holds frames.
    """

    def __init__(
        self,
        n_q: int,
        delays: Sequence[int] | None = None,
        flatten_first: int = 0,
        empty_initial: int = 0,
    ) -> None:
        super().__init__(n_q)
        self.delays = list(range(n_q)) if delays is None else list(delays)
        self.flatten_first, self.empty_initial = flatten_first, empty_initial
        if len(self.delays) != n_q or sorted(self.delays) != self.delays:
            raise ArgumentError(
                f"delays={self.delays} must be {n_q} numbers, one per codebook, not decreasing"
            )

    def get_pattern(self, timesteps: int) -> Pattern:
        n_empty = 0 if self.empty_initial < 0 else 1 + self.empty_initial
        n_flat = min(timesteps, self.flatten_first)
        empty = torch.full((self.n_q, n_empty), -1)
        flat = torch.full((self.n_q, n_flat, self.n_q), -1)  # [K, frame, step of the frame]
        flat.diagonal(dim1=0, dim2=2).copy_(torch.arange(n_flat)[:, None])
        n_lagged = n_steps(timesteps, tuple(self.delays)) - 1 - self.flatten_first
        lagged = self.flatten_first + torch.arange(max(0, n_lagged))
        lagged = lagged - torch.tensor(self.delays)[:, None]
        lagged = lagged.where(lagged >= self.flatten_first, -1)
        return Pattern(torch.cat([empty, flat.flatten(1), lagged], dim=1), timesteps)


class ParallelPatternProvider(DelayedPatternProvider):
    """All codebooks at once: no delays. `empty_initial` as in `DelayedPatternProvider`."""

    def __init__(self, n_q: int, empty_initial: int = 0) -> None:
        super().__init__(n_q, [0] * n_q, empty_initial=empty_initial)


class UnrolledPatternProvider(CodebooksPatternProvider):
    """Each frame takes several steps, its codebooks one after the other.

    Args:
        n_q: Codebooks K.
        flattening: The step within a frame that each codebook comes at; None is 0, 1, 2, …
            A step that no codebook has is empty, and comes first in its frame.
        delays: Frames by which each codebook lags; those of one step lag alike. None is 0.
    """

    def __init__(
        self,
        n_q: int,
        flattening: Sequence[int] | None = None,
        delays: Sequence[int] | None = None,
    ) -> None:
        super().__init__(n_q)
        self.flattening = list(range(n_q)) if flattening is None else list(flattening)
        self.delays = [0] * n_q if delays is None else list(delays)
        of_step: dict[int, set[int]] = {}
        for step, delay in zip(self.flattening, self.delays, strict=False):
            of_step.setdefault(step, set()).add(delay)
        lengths_fit = len(self.flattening) == len(self.delays) == n_q
        if not lengths_fit or any(len(delays) > 1 for delays in of_step.values()):
            raise ArgumentError(
                f"flattening={self.flattening} and delays={self.delays} must be {n_q} numbers each,"
                " and codebooks of one step must lag alike"
            )

    @property
    def max_delay(self) -> int:
        """Frames by which the last codebook lags."""
        return max(self.delays)

    def num_virtual_steps(self, timesteps: int) -> int:
        """Steps of so many frames without delays, the empty first one counted."""
        return timesteps * (max(self.flattening) + 1) + 1

    def get_pattern(self, timesteps: int) -> Pattern:
        n_frames = timesteps + self.max_delay
        books = [
            [book for book, at in enumerate(self.flattening) if at == inner]
            for inner in range(max(self.flattening) + 1)
        ]
        steps: list[tuple[int, list[tuple[int, int]]]] = [(-1, [])]  # when, and what it holds
        for frame in range(n_frames):
            for held in books:
                when = frame + (self.delays[held[0]] if held else 0)
                if when < n_frames:
                    steps.append((when, [(frame, book) for book in held]))
        return self._of_steps([held for _, held in sorted(steps)], timesteps)


class CoarseFirstPattern(CodebooksPatternProvider):
    """All frames of the first codebook, then those of the others together.

    Args:
        n_q: Codebooks K.
        delays: Steps by which each of the others lags, K - 1 numbers; None is 0.
    """

    def __init__(self, n_q: int, delays: Sequence[int] | None = None) -> None:
        super().__init__(n_q)
        self.delays = [0] * (n_q - 1) if delays is None else list(delays)
        if len(self.delays) != n_q - 1 or sorted(self.delays) != self.delays:
            raise ArgumentError(
                f"delays={self.delays} must be {n_q - 1} numbers, one per codebook but the first, "
                "not decreasing"
            )

    def get_pattern(self, timesteps: int) -> Pattern:
        coarse = [[(frame, 0)] for frame in range(timesteps)]
        fine = [
            [(step - lag, book) for book, lag in enumerate(self.delays, 1) if step >= lag]
            for step in range(timesteps + max(self.delays, default=0))
        ]
        return self._of_steps([[], *coarse, *fine], timesteps)


class MusicLMPattern(CodebooksPatternProvider):
    """Groups of codebooks one after the other; within a group, frame by frame, a codebook to a
    step.

    Args:
        n_q: Codebooks K, a multiple of `group_by`.
        group_by: Codebooks of a group.
    """

    def __init__(self, n_q: int, group_by: int = 2) -> None:
        super().__init__(n_q)
        self.group_by = group_by
        if group_by < 1 or n_q % group_by:
            raise ArgumentError(f"group_by={group_by} must divide the {n_q} codebooks")

    def get_pattern(self, timesteps: int) -> Pattern:
        steps = [
            [(frame, book)]
            for first in range(0, self.n_q, self.group_by)
            for frame in range(timesteps)
            for book in range(first, first + self.group_by)
        ]
        return self._of_steps([[], *steps], timesteps)
