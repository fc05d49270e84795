"""Faster versions of two EnCodec layers for the CPU; on a GPU they run torch's own."""

import torch
from torch import Tensor, nn


class Elu(nn.Module):
    """ELU with alpha = 1 (Clevert et al. 2016), within 6e-8 of torch's.

    On a CPU torch's ELU takes a quarter of the codec's time, because it computes `expm1`; this one
    computes `exp(x) - 1`, which is faster.
    """

    def forward(self, x: Tensor) -> Tensor:
        """ELU of every entry of `x`."""
        if x.is_cuda:
            return nn.functional.elu(x)
        below = x.clamp(max=0).exp_().sub_(1)
        return torch.maximum(x, below, out=below)


def pointwise(conv: nn.Module, x: Tensor) -> Tensor:
    """What `conv`, a convolution of width 1, makes [B, C', N] of `x` [B, C, N].

    For one clip on a CPU it is one matrix product, which is four times as fast.
    """
    if x.is_cuda or len(x) != 1:
        return conv(x)  # type: ignore[no-any-return]
    bias: Tensor = conv.bias  # type: ignore[assignment]
    return torch.addmm(bias[:, None], conv.weight[..., 0], x[0])[None]  # type: ignore[index]
