"""The layout of codebooks over steps under AudioCraft's names.

A pattern is a table [K, S] of the frame that each codebook holds at each step. A step holds at most
one frame of a codebook, and frames never go back.
"""

from functools import cached_property
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from musicgen.config import ArgumentError


class LayoutCoord(NamedTuple):
    """A frame `t` of codebook `q`."""

    t: int
    q: int


PatternLayout = list[list[LayoutCoord]]


class Pattern:
    """The layout of T frames of K codebooks over S steps.

    Args:
        frames: The frame at each step, int64 [K, S]; less than 0 is none, `timesteps` or more one
            that a longer clip would have there.
        timesteps: Frames T.
    """

    def __init__(self, frames: Tensor, timesteps: int) -> None:
        self.frames, self.timesteps = frames, timesteps

    @property
    def n_q(self) -> int:
        """Codebooks K."""
        return len(self.frames)

    @property
    def num_sequence_steps(self) -> int:
        """Steps behind the first, which holds no frame."""
        return self.frames.shape[1] - 1

    @property
    def max_delay(self) -> int:
        """Frames that the table has beyond the end of the clip, where codebooks lag."""
        return int(self.frames.max()) + 1 - self.timesteps

    @cached_property
    def layout(self) -> PatternLayout:
        """For each step, the frames that it holds, also those beyond the end of the clip."""
        return [
            [LayoutCoord(t, q) for q, t in enumerate(step) if t >= 0]
            for step in self.frames.T.tolist()
        ]

    @property
    def valid_layout(self) -> PatternLayout:
        """The steps before the first codebook has ended."""
        return self.layout[: len(self.layout) - self.max_delay]

    def get_sequence_coords_with_timestep(
        self, t: int, q: int | None = None
    ) -> list[tuple[int, LayoutCoord]]:
        """Steps that hold frame `t`, of any codebook or of `q`, and what they hold of it."""
        if t > self.timesteps or (q is not None and q > self.n_q):
            raise ArgumentError(
                f"t={t}, q={q}: the pattern has {self.timesteps} frames of {self.n_q} codebooks"
            )
        books = range(self.n_q) if q is None else [q]
        return [
            (step, held)
            for step, frames in enumerate(self.layout)
            for held in frames
            if held.t == t and held.q in books
        ]

    def get_steps_with_timestep(self, t: int, q: int | None = None) -> list[int]:
        """Steps that hold frame `t`, one entry per codebook."""
        return [step for step, _ in self.get_sequence_coords_with_timestep(t, q)]

    def get_first_step_with_timesteps(self, t: int, q: int | None = None) -> int | None:
        """The first step that holds frame `t`; None where none does."""
        return min(self.get_steps_with_timestep(t, q), default=None)

    def build_pattern_sequence(
        self, z: Tensor, special_token: int, keep_only_valid_steps: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Codes to a sequence.

        Args:
            z: Codes [B, K, T'], T' at most T.
            special_token: Stands where a step holds no frame.
            keep_only_valid_steps: Whether the sequence ends where the first codebook does.

        Returns:
            The sequence [B, K, S]; for each place [K, S] its index in `z` flattened to [B, K·T'],
            K·T' for none; and whether it holds a frame, bool [K, S].
        """
        n_frames = z.shape[-1]
        self._check(z.shape[1], n_frames, self.timesteps, "frames")
        last = self._n_steps(keep_only_valid_steps)
        mask = self._valid(n_frames)[:, :last]
        books = torch.arange(self.n_q)[:, None] * n_frames
        indexes = torch.where(mask, self.frames[:, :last] + books, self.n_q * n_frames)
        return _picked(z, indexes, special_token), indexes.to(z.device), mask.to(z.device)

    def revert_pattern_sequence(
        self, s: Tensor, special_token: int, keep_only_valid_steps: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """A sequence [B, K, S'] back to codes [B, K, T], with their indexes and which are there."""
        indexes, mask = self._steps_of_frames(s.shape[1], s.shape[-1], keep_only_valid_steps, 0)
        return _picked(s, indexes, special_token), indexes.to(s.device), mask.to(s.device)

    def revert_pattern_logits(
        self, logits: Tensor, special_token: float, keep_only_valid_steps: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits [B, card, K, S'] to those that decide each frame, [B, card, K, T].

        The logits of a step decide the frames of the next one; where the first step holds frames
        already, nothing comes before it and they decide their own.
        """
        books, steps = logits.shape[-2:]
        lead = int(not self.layout[0])
        indexes, mask = self._steps_of_frames(books, steps, keep_only_valid_steps, lead)
        device = logits.device
        return _picked(logits, indexes, special_token), indexes.to(device), mask.to(device)

    def _valid(self, n_frames: int) -> Tensor:
        return (self.frames >= 0) & (self.frames < n_frames)

    def _check(self, n_books: int, n: int, most: int, what: str) -> None:
        if n_books != self.n_q or n > most:
            raise ArgumentError(
                f"got {n_books} codebooks of {n} {what}; the pattern has {self.n_q} of {most}"
            )

    def _n_steps(self, only_valid: bool) -> int:
        return self.frames.shape[1] - (self.max_delay if only_valid else 0)

    def _steps_of_frames(
        self, n_books: int, given: int, only_valid: bool, lead: int
    ) -> tuple[Tensor, Tensor]:
        """Where in a flattened sequence of `given` steps each frame is, `lead` steps early."""
        last = self._n_steps(only_valid)
        self._check(n_books, given, last, "steps")
        steps = torch.arange(last) - lead
        here = self._valid(self.timesteps)[:, :last] & (steps >= 0) & (steps < given)  # [K, S]
        indexes = torch.full((n_books, self.timesteps), n_books * given)
        book, step = here.nonzero(as_tuple=True)
        indexes[book, self.frames[book, step]] = steps[step] + book * given
        return indexes, indexes < n_books * given


def _picked(values: Tensor, indexes: Tensor, special: float) -> Tensor:
    """`values` [..., K, N] at `indexes` [K, M] of the flattened last two: [..., K, M]."""
    flat = F.pad(values.flatten(-2), (0, 1), value=special)  # [..., K·N + 1]
    return flat[..., indexes.to(values.device)]
