"""How a clip's conditions enter the rows that the language model runs.

Prefix order is melody, text, tokens. Text has its exact length in every row of its clip, so that a
row never depends on its batch-mates; a null row keeps as many (zero) text slots as its clip's text.
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
        null_audio: The prefix [P, D] that stands for "no melody"; None on a text model.
    """

    text: Tensor
    audio: Tensor | None = None
    null_audio: Tensor | None = None


@dataclass(frozen=True)
class RowCondition:
    """Conditions of one row.

    Attributes:
        cross: Keys of the cross-attention [L, D]; None makes its output exactly zero.
        prefix: What precedes the tokens [P + L, D], or None.
    """

    cross: Tensor | None = None
    prefix: Tensor | None = None


def fuse(clip: ClipConditions, method: FuseMethod, *, text: bool, audio: bool) -> RowCondition:
    """The row of `clip` that keeps its text and its audio, or has them nulled."""
    if method == "cross":
        return RowCondition(cross=clip.text if text else None)
    words = clip.text if text else torch.zeros_like(clip.text)  # [L, D]
    melody = clip.audio if audio and clip.audio is not None else clip.null_audio  # [P, D]
    prefix = words if melody is None else torch.cat([melody, words])  # [P + L, D]
    return RowCondition(prefix=prefix)
