"""The transformer as plain modules over whole sequences; parameter names are AudioCraft's.

The engine runs the same weights step by step (`musicgen.engine.step`) and is tested against this.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sinusoid(positions: Tensor, dim: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Position vectors [..., D] in `dtype`: cosines in the first half, sines in the second."""
    index = torch.arange(dim // 2, device=positions.device, dtype=dtype)
    period = torch.full([], 10000.0, device=positions.device, dtype=dtype)
    phase = positions.to(dtype)[..., None] / period ** (index / (dim // 2 - 1))  # [..., D / 2]
    return torch.cat([phase.cos(), phase.sin()], dim=-1)


def split_heads(x: Tensor, n_heads: int) -> Tensor:
    """[B, S, D] to [B, H, S, D / H]; head h has the h-th group of neighbouring columns."""
    return x.view(*x.shape[:-1], n_heads, -1).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """[B, H, S, D / H] to [B, S, D]."""
    return x.transpose(1, 2).flatten(-2)


class Attention(nn.Module):
    """Multi-head attention with a fused input projection (rows q, k, v) and no biases.

    The attribute `attend` computes the attention of queries, keys and values [B, H, S, D / H]; the
    training of the bundled model replaces it by a function that is faster there.
    """

    def __init__(self, dim: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.attend: Callable[..., Tensor] = F.scaled_dot_product_attention
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.out_proj = nn.Linear(dim, dim, bias=False)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(
        self, x: Tensor, memory: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Attend from `x` [B, S, D] to `memory` [B, L, D] under `mask` [B, 1, 1, L], or, without
        a memory, causally to `x` itself."""
        dim = x.shape[-1]
        if memory is None:
            q, k, v = F.linear(x, self.in_proj_weight).chunk(3, dim=-1)  # [B, S, D] each
        else:
            q = F.linear(x, self.in_proj_weight[:dim])  # [B, S, D]
            k, v = F.linear(memory, self.in_proj_weight[dim:]).chunk(2, dim=-1)  # [B, L, D] each
        q, k, v = (split_heads(t, self.n_heads) for t in (q, k, v))
        out = self.attend(q, k, v, attn_mask=mask, is_causal=memory is None)
        projected: Tensor = self.out_proj(merge_heads(out))  # [B, S, D]
        return projected


class Layer(nn.Module):
    """Pre-norm layer: self-attention, cross-attention where the model has it, feed-forward."""

    def __init__(self, dim: int, n_heads: int, ffn_dim: int, *, cross: bool) -> None:
        super().__init__()
        self.self_attn = Attention(dim, n_heads)
        self.linear1 = nn.Linear(dim, ffn_dim, bias=False)
        self.linear2 = nn.Linear(ffn_dim, dim, bias=False)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.cross_attention = Attention(dim, n_heads) if cross else None
        self.norm_cross = nn.LayerNorm(dim) if cross else None

    def forward(self, x: Tensor, memory: Tensor | None, mask: Tensor | None) -> Tensor:
        """One layer over `x` [B, S, D]; cross-attention reads `memory` [B, L, D] under `mask`
        [B, 1, 1, L]."""
        x = x + self.self_attn(self.norm1(x))
        if self.cross_attention is not None and self.norm_cross is not None:
            x = x + self.cross_attention(self.norm_cross(x), memory, mask)
        x = x + self.linear2(F.gelu(self.linear1(self.norm2(x))))
        return x


class Transformer(nn.Module):
    """The stack of layers; positions are counted from the first vector of a row's prefix."""

    def __init__(self, dim: int, n_heads: int, n_layers: int, ffn_dim: int, *, cross: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            Layer(dim, n_heads, ffn_dim, cross=cross) for _ in range(n_layers)
        )

    def forward(self, x: Tensor, memory: Tensor | None, mask: Tensor | None) -> Tensor:
        """Run `x` [B, S, D], prefix included; `memory` [B, L, D] is for cross-attention."""
        positions = torch.arange(x.shape[1], device=x.device)
        x = x + sinusoid(positions, x.shape[-1], x.dtype)
        for layer in self.layers:
            x = layer(x, memory, mask)
        return x
