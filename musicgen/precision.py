"""What runs where: the number formats of a step and the linear layer that suits the device.

| dtype | linears | caches and attention | embeddings, norms, residual stream, logits |
|---|---|---|---|
| fp32 | float32 | float32 | float32 |
| bf16 | bfloat16 | bfloat16, on a CPU float32 | float32 |
| fp16, GPU only | float16 | float16 | float32 |

That is what torch.autocast does, except that weights are converted once and not at every step, and
that a CPU attends in float32: its batched bfloat16 product copies the cache first, which makes a
step several times as slow.

On a CPU with oneDNN the weights are also packed once into its blocked layout: several times as fast
with few rows and, unlike the plain float32 linear, indifferent to row position and thread count.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

Linear = Callable[[Tensor], Tensor]


def compute_dtype(name: str, device: torch.device) -> torch.dtype:
    """The number format called `name`, if `device` computes in it."""
    if name not in DTYPES:
        raise ValueError(f"dtype={name!r} must be one of {', '.join(DTYPES)}")
    if name == "fp16" and device.type == "cpu":
        raise ValueError("dtype='fp16' needs a GPU; on a CPU take 'bf16' or 'fp32'")
    return DTYPES[name]


def cache_dtype(compute: torch.dtype, device: torch.device) -> torch.dtype:
    """The number format of caches and attention beside linears in `compute`."""
    return torch.float32 if device.type == "cpu" else compute


def can_pack(device: torch.device) -> bool:
    """Whether linears on `device` run from weights packed by oneDNN."""
    return device.type == "cpu" and bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


def make_linear(weight: Tensor, dtype: torch.dtype, *, packed: bool) -> Linear:
    """The map [..., in] -> [..., out] of `weight` [out, in], in `dtype`, without a bias."""
    weight = weight.detach().to(dtype).contiguous()
    if not packed:
        return lambda x: F.linear(x.to(dtype), weight)
    blocked = torch.ops.mkldnn._reorder_linear_weight(weight)
    apply = torch.ops.mkldnn._linear_pointwise
    return lambda x: apply(x.to(dtype), blocked, None, "none", [], "")
