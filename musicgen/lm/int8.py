"""Weights in int8: each row of a matrix as whole numbers from -127 to 127 and one scale.

    w[o, i] ~ q[o, i] * s[o]        s[o] = max over i of |w[o, i]| / 127

Only the matrices that a decode step reads are rounded: those of the transformer's layers and the
heads. Embeddings, norms, the projections of the conditions, T5 and codec stay as they are, and so
do activations and sums.

The model is rounded where it is loaded, so that every way to compute it has the same weights. Where
linear layers are packed (on a CPU) it then runs as any other model. Elsewhere the engine keeps the
whole numbers, which it finds again by rounding once more.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from musicgen.lm.model import LMModel

MOST = 127  # the largest whole number; -128 is left out, so that signs are alike


@dataclass(frozen=True)
class Int8Matrix:
    """A matrix [out, in].

    Attributes:
        values: Whole numbers, int8 [out, in].
        scale: What those of a row are multiplied by, float32 [out].
    """

    values: Tensor
    scale: Tensor

    def dense(self, dtype: torch.dtype) -> Tensor:
        """The matrix in `dtype`, each number rounded once."""
        return (self.values.float() * self.scale[:, None]).to(dtype)


def quantise(weight: Tensor) -> Int8Matrix:
    """The nearest int8 matrix of `weight` [out, in]; of the numbers of an int8 matrix, itself up to
    the last bit of its scales."""
    weight = weight.detach().float()
    most = weight.abs().amax(dim=1)  # [out]
    scale = torch.where(most > 0, most / MOST, 1.0)
    return Int8Matrix((weight / scale[:, None]).round().to(torch.int8), scale)


@torch.no_grad()
def round_to_int8(lm: LMModel) -> None:
    """Round the matrices of `lm` in place, and remember it in `lm.int8`."""
    for layer in lm.transformer.layers:
        for weight in layer.parameters():
            if weight.dim() == 2:
                weight.copy_(quantise(weight).dense(weight.dtype))
    for head in lm.linears:
        assert isinstance(head, nn.Linear)
        head.weight.copy_(quantise(head.weight).dense(head.weight.dtype))
    lm.int8 = True
