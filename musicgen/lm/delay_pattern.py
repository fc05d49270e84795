"""The delay pattern: K codebooks of T frames laid out over S steps.

Step 0 holds the special token everywhere; step s >= 1 holds frame s - 1 - delay[k] of codebook k
where that frame exists, else the special token. So S = T + max(delays) + 1.
"""

import torch
from torch import Tensor

UNKNOWN = -1  # a token still to be decided


def n_steps(n_frames: int, delays: tuple[int, ...]) -> int:
    """Steps S of a sequence of `n_frames` frames."""
    return n_frames + max(delays) + 1


def frame_of_step(n_frames: int, delays: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Which frame each codebook holds at each step, and whether it holds one: two [K, S]."""
    steps = torch.arange(n_steps(n_frames, delays))
    frame = steps - 1 - torch.tensor(delays)[:, None]  # [K, S]
    valid = (frame >= 0) & (frame < n_frames)  # [K, S]
    return frame.clamp(0, n_frames - 1), valid


def build(codes: Tensor, delays: tuple[int, ...], special: int) -> Tensor:
    """Delay `codes` [..., K, T] into a sequence [..., K, S]."""
    frame, valid = frame_of_step(codes.shape[-1], delays)
    frame, valid = frame.to(codes.device), valid.to(codes.device)
    delayed = codes.gather(-1, frame.expand(*codes.shape[:-1], -1))  # [..., K, S]
    return torch.where(valid, delayed, special)


def open_sequence(
    prompt: Tensor | None, n_frames: int, delays: tuple[int, ...], special: int
) -> Tensor:
    """A clip's sequence [K, S] with its `prompt` [K, T0] laid out and the rest `UNKNOWN`."""
    codes = torch.full((len(delays), n_frames), UNKNOWN)
    if prompt is not None:
        codes[:, : prompt.shape[-1]] = prompt
    return build(codes, delays, special)


def revert(sequence: Tensor, delays: tuple[int, ...], n_frames: int) -> Tensor:
    """Read the codes [..., K, T] back out of a sequence [..., K, S]."""
    rows = [sequence[..., k, 1 + delay : 1 + delay + n_frames] for k, delay in enumerate(delays)]
    return torch.stack(rows, dim=-2)  # [..., K, T]
