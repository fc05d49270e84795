"""Initialises attention heads so that they read the melody at the time of the current step.

From random weights no head learned within twenty minutes which frame of the melody belongs to a
step. Positions determine it: a head whose queries are the positions' slow sinusoids, turned by
a constant, and whose keys are those that are `ratio` times as fast looks at one frame, and moves on
by one every `ratio` steps. The first layer is initialised with such heads; training may change them
like all other weights.
"""

import math

import torch

from musicgen.modules.transformer import Attention

GAIN = 2.0  # how sharply a head looks
SILENT = 8  # the slowest sines: about zero wherever a step can be


@torch.no_grad()
def align(attention: Attention, head: int, ratio: int, offset: float) -> None:
    """Sets the weights of head `head` so that position p attends to position (p - offset) / ratio.

    Positions are `musicgen.modules.transformer.sinusoid`'s. The layer norm before has taken its
    mean from each vector; the slowest sines, zero by themselves, tell how much that was.

    Args:
        attention: Of the first layer, dimension D.
        head: Its index.
        ratio: Steps per frame of the melody.
        offset: Position of the step at which the first frame is heard.
    """
    weight = attention.in_proj_weight  # [3D, D]: queries, keys, values
    dim = weight.shape[1]
    half, width = dim // 2, dim // attention.n_heads
    speeds = 10_000.0 ** (-torch.arange(half) / (half - 1))  # radians per position
    step = math.log(10_000) / (half - 1)
    apart = round(math.log(ratio) / step)  # rungs between a speed and a `ratio` of it
    n_speeds = width // 2
    rows = torch.eye(dim)
    rows = GAIN * (rows - rows[-SILENT:].mean(dim=0))  # each sees its coordinate and no mean
    cos, sin = rows[:half], rows[half:]
    fast, slow = slice(0, n_speeds), slice(apart, apart + n_speeds)
    turn = (speeds[slow] * offset)[:, None]  # [n, 1]
    first = head * width
    queries = [
        cos[slow] * turn.cos() + sin[slow] * turn.sin(),
        sin[slow] * turn.cos() - cos[slow] * turn.sin(),
    ]
    weight[first : first + width] = torch.cat(queries)
    weight[dim + first : dim + first + width] = torch.cat([cos[fast], sin[fast]])
