"""Turns the conditions of a clip into those of its rows in the batch.

A row's order is melody, text, tokens. Text has its exact length in every row of its clip, so that a
row never depends on other clips; in a null row zeros take the place of the text, as many as it has
tokens.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from musicgen.config import FuseMethod


@dataclass(frozen=True)
class ClipConditions:
    """Conditions of one clip, projected to the model width.

    Attributes:
        text: Text embeddings [L, D], L >= 1; zeros [1, D] for an empty prompt.
        audio: Melody prefix [P, D], or None.
        null_audio: The prefix [P, D] of a row without a melody or style; None on a text model.
    """

    text: Tensor
    audio: Tensor | None = None
    null_audio: Tensor | None = None


@dataclass(frozen=True)
class RowCondition:
    """Conditions of one row.

    Attributes:
        cross: Text [L, D] for cross-attention; None makes the output of cross-attention exactly 0.
        prefix: Vectors [P + L, D] that precede the tokens, or None.
    """

    cross: Tensor | None = None
    prefix: Tensor | None = None


def fuse(clip: ClipConditions, method: FuseMethod, *, text: bool, audio: bool) -> RowCondition:
    """The condition of one row of `clip`, in which text and audio are kept or nulled."""
    if method == "cross":
        return RowCondition(cross=clip.text if text else None)
    words = clip.text if text else torch.zeros_like(clip.text)  # [L, D]
    melody = clip.audio if audio and clip.audio is not None else clip.null_audio  # [P, D]
    prefix = words if melody is None else torch.cat([melody, words])  # [P + L, D]
    return RowCondition(prefix=prefix)
