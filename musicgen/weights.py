"""The language model's weights as the engine runs them: fused, converted and packed once."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from musicgen.config import LMConfig
from musicgen.lm import LMModel
from musicgen.precision import Linear, cache_dtype, can_pack, compute_dtype, make_linear
from musicgen.transformer import Layer, sinusoid

Norm = Callable[[Tensor], Tensor]
Attend = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class CrossWeights:
    """The cross-attention of one layer: query and output D to D, keys and values D to 2 D."""

    norm: Norm
    query: Linear
    key_value: Linear
    out: Linear


@dataclass(frozen=True)
class LayerWeights:
    """One layer: D to 3 D (query, key, value), D to D, and the feed-forward pair."""

    norm1: Norm
    qkv: Linear
    out: Linear
    cross: CrossWeights | None
    norm2: Norm
    linear1: Linear
    linear2: Linear

    def __call__(self, x: Tensor, attend: Attend, attend_cross: Attend) -> Tensor:
        """One layer over `x` float32 [..., D]; `attend` takes the fused projection [..., 3 D],
        `attend_cross` the query [..., D], and both give the heads' output [..., D]."""
        x = x + self.out(attend(self.qkv(self.norm1(x))))
        if self.cross is not None:
            x = x + self.cross.out(attend_cross(self.cross.query(self.cross.norm(x))))
        return x + self.linear2(F.gelu(self.linear1(self.norm2(x))))


@dataclass(frozen=True)
class StepWeights:
    """All weights of a decode step.

    Attributes:
        cfg: Shape of the model.
        cache_dtype: Number format of caches and attention.
        embeddings: One table for all codebooks, float32 [K * (card + 1), D].
        offsets: Where each codebook's part begins: int64 [K].
        positions: Position vectors, float32 [cells, D].
        layers: The transformer.
        out_norm: The norm before the heads.
        heads: All K heads as one map, D to K * card.
    """

    cfg: LMConfig
    cache_dtype: torch.dtype
    embeddings: Tensor
    offsets: Tensor
    positions: Tensor
    layers: tuple[LayerWeights, ...]
    out_norm: Norm
    heads: Linear

    @property
    def device(self) -> torch.device:
        """Where the step runs."""
        return self.embeddings.device

    def embed(self, tokens: Tensor) -> Tensor:
        """Sum of the codebooks' embeddings, float32 [..., D], of `tokens` [..., K]."""
        summed: Tensor = F.embedding(tokens + self.offsets, self.embeddings).sum(-2)
        return summed

    def logits(self, x: Tensor) -> Tensor:
        """Logits float32 [..., K, card] of the last layer's output [..., D]."""
        out = self.heads(self.out_norm(x)).float()
        return out.view(*x.shape[:-1], self.cfg.n_codebooks, self.cfg.card)


def prepare(lm: LMModel, dtype: str, n_cells: int, *, packed: bool | None = None) -> StepWeights:
    """Make the weights of `lm` ready for steps in `dtype` with up to `n_cells` positions.

    Args:
        lm: The model, on the device where the step is to run; it is left as it is.
        dtype: fp32, bf16 or fp16.
        n_cells: Prefix and steps of the longest row.
        packed: Whether linears run from packed weights; None where the device can.
    """
    cfg = lm.cfg
    device = lm.out_norm.weight.device
    compute = compute_dtype(dtype, device)
    packed = can_pack(device) if packed is None else packed
    linear = partial(make_linear, dtype=compute, packed=packed)
    embeddings = torch.cat([table.detach().float() for table in lm.emb.parameters()])
    heads = torch.cat([head.detach() for head in lm.linears.parameters()])
    return StepWeights(
        cfg=cfg,
        cache_dtype=cache_dtype(compute, device),
        embeddings=embeddings,
        offsets=torch.arange(cfg.n_codebooks, device=device) * (cfg.card + 1),
        positions=sinusoid(torch.arange(n_cells, device=device), cfg.dim),
        layers=tuple(_layer(cast(Layer, x), cfg.dim, linear) for x in lm.transformer.layers),
        out_norm=_norm(lm.out_norm),
        heads=linear(heads),
    )


def _layer(layer: Layer, dim: int, linear: Callable[[Tensor], Linear]) -> LayerWeights:
    cross = None
    if layer.cross_attention is not None and layer.norm_cross is not None:
        cross = CrossWeights(
            norm=_norm(layer.norm_cross),
            query=linear(layer.cross_attention.in_proj_weight[:dim]),
            key_value=linear(layer.cross_attention.in_proj_weight[dim:]),
            out=linear(layer.cross_attention.out_proj.weight),
        )
    return LayerWeights(
        norm1=_norm(layer.norm1),
        qkv=linear(layer.self_attn.in_proj_weight),
        out=linear(layer.self_attn.out_proj.weight),
        cross=cross,
        norm2=_norm(layer.norm2),
        linear1=linear(layer.linear1.weight),
        linear2=linear(layer.linear2.weight),
    )


def _norm(norm: nn.LayerNorm) -> Norm:
    weight, bias = norm.weight.detach().float(), norm.bias.detach().float()
    return lambda x: F.layer_norm(x, weight.shape, weight, bias, norm.eps)
