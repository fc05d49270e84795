"""Faster versions of two EnCodec layers for the CPU; on a GPU they run torch's own.

Each replaces a module and keeps the names of its parameters.
"""

import torch
from torch import Tensor, nn
from transformers.models.encodec.modeling_encodec import EncodecConv1d


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


class Pointwise(nn.Module):
    """A convolution of width 1 as one matrix product, which is four times as fast on a CPU."""

    def __init__(self, layer: EncodecConv1d) -> None:
        super().__init__()
        self.conv = layer.conv

    def forward(self, x: Tensor) -> Tensor:
        """[1, C', N] of `x` [1, C, N]."""
        if x.is_cuda or len(x) != 1:
            return self.conv(x)  # type: ignore[no-any-return]
        return torch.addmm(self.conv.bias[:, None], self.conv.weight[..., 0], x[0])[None]


def replace_slow_layers(module: nn.Module) -> None:
    """Replace the layers below `module` for which this file has a faster version, in place."""
    for name, child in module.named_children():
        if isinstance(child, nn.ELU) and child.alpha == 1:
            setattr(module, name, Elu())
        elif _is_pointwise(child):
            setattr(module, name, Pointwise(child))
        else:
            replace_slow_layers(child)


def _is_pointwise(module: nn.Module) -> bool:
    if not isinstance(module, EncodecConv1d) or module.norm_type != "weight_norm":
        return False
    conv = module.conv
    return bool(conv.kernel_size == (1,) and conv.stride == (1,) and conv.groups == 1)
