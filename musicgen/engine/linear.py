"""Number formats of a step, and the fastest linear layer for each device.

| dtype | linears, caches and attention | softmax, embeddings, norms, residual stream, logits |
|---|---|---|
| fp32 | float32 | float32 |
| bf16 | bfloat16 | float32 |
| fp16, GPU only | float16 | float32 |

These are the formats of torch.autocast on a GPU, but weights are converted once instead of at every
step.

On a CPU with oneDNN the weights are also packed once into its blocked layout: such a layer is
several times as fast with few rows and, unlike the plain float32 one, its bits do not depend on row
position, row count (from two rows on) and thread count. It can also apply a GELU, or in float32 add
the residual, in the same pass over memory and with the same bits. Beside packed weights, attention
reads its caches by weighted sums instead of batched products (`musicgen.engine.kv_cache`).
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from musicgen.lm.int8 import Int8Matrix

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

Matrix = Tensor | Int8Matrix
Linear = Callable[[Tensor], Tensor]
ResidualLinear = Callable[[Tensor, Tensor], Tensor]


def compute_dtype(name: str, device: torch.device) -> torch.dtype:
    """The number format called `name`.

    Raises:
        ValueError: There is no such format, or `device` does not compute in it.
    """
    if name not in DTYPES:
        raise ValueError(f"dtype={name!r} must be one of {', '.join(DTYPES)}")
    if name == "fp16" and device.type == "cpu":
        raise ValueError("dtype='fp16' needs a GPU; on a CPU take 'bf16' or 'fp32'")
    return DTYPES[name]


def has_fast_bf16() -> bool:
    """Whether oneDNN multiplies bfloat16 matrices on this CPU: it does not without AVX-512."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy `tensor` from the host to `device`; to a GPU from pinned memory, without waiting."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def text_block(*, packed: bool) -> int:
    """Cross-attention reads text cells in multiples of this.

    `BagCache` gives the same bits for every multiple of 16, batched products for multiples of 64.
    """
    return 16 if packed else 64


def can_pack(device: torch.device) -> bool:
    """Whether linear layers on `device` can run from weights packed by oneDNN."""
    return device.type == "cpu" and bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


def make_linear(weight: Matrix, dtype: torch.dtype, *, packed: bool, gelu: bool = False) -> Linear:
    """The linear map [..., in] -> [..., out] of `weight` [out, in], computed in `dtype`, without a
    bias; with `gelu`, a GELU follows. A matrix in int8, which is never packed, is made dense anew
    for each product."""
    if isinstance(weight, Int8Matrix):
        dense = partial(weight.dense, dtype)
        if gelu:
            return lambda x: F.gelu(F.linear(x.to(dtype), dense()))
        return lambda x: F.linear(x.to(dtype), dense())
    weight = weight.detach().to(dtype).contiguous()
    if packed:
        blocked = torch.ops.mkldnn._reorder_linear_weight(weight)
        apply, then, how = torch.ops.mkldnn._linear_pointwise, "none", ""
        if gelu:
            then, how = "gelu", "none"
        return lambda x: apply(x.to(dtype), blocked, None, then, [], how)
    if gelu:
        return lambda x: F.gelu(F.linear(x.to(dtype), weight))
    return lambda x: F.linear(x.to(dtype), weight)


def make_residual_linear(weight: Matrix, dtype: torch.dtype, *, packed: bool) -> ResidualLinear:
    """The function from (residual float32 [..., out], x [..., in]) to residual plus the linear map
    of `x` by `weight` [out, in], computed in `dtype`."""
    if packed and dtype == torch.float32 and isinstance(weight, Tensor):
        blocked = torch.ops.mkldnn._reorder_linear_weight(weight.detach().to(dtype).contiguous())
        apply = torch.ops.mkldnn._linear_pointwise.binary
        return lambda residual, x: apply(x, residual, blocked, None, "add")
    linear = make_linear(weight, dtype, packed=packed)
    return lambda residual, x: residual + linear(x)
