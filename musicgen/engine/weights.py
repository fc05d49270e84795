"""The language model's weights in the form that the engine uses: fused, converted, packed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from musicgen.config import LMConfig
from musicgen.engine.linear import (
    Linear,
    Matrix,
    ResidualLinear,
    can_pack,
    compute_dtype,
    has_fast_bf16,
    make_linear,
    make_residual_linear,
    text_block,
)
from musicgen.lm.int8 import Int8Matrix, quantise
from musicgen.lm.model import LMModel
from musicgen.modules.transformer import Attention, Layer, sinusoid

PROBED_ROWS = (2, 3, 4, 6, 7, 8, 12, 16, 24, 32, 48, 64)

Attend = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class NormTensors:
    """A layer norm: float32 [D] each."""

    weight: Tensor
    bias: Tensor
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        """The norm of `x` [..., D]."""
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


@dataclass(frozen=True)
class LayerTensors:
    """The matrices of one layer, [out, in] each, for kernels that fuse what surrounds a product.

    They share memory with the linear maps of the same layer.
    """

    qkv: Matrix
    out: Matrix
    linear1: Matrix
    linear2: Matrix
    cross_query: Matrix | None = None
    cross_out: Matrix | None = None


@dataclass(frozen=True)
class CrossWeights:
    """The cross-attention of one layer: query and output D to D, keys and values D to 2 D (None
    where `StepWeights.text_kv` makes those of all layers)."""

    norm: NormTensors
    query: Linear
    key_value: Linear | None
    out: ResidualLinear


@dataclass(frozen=True)
class LayerWeights:
    """One layer: D to 3 D (query, key, value), D to D, and the feed-forward pair.

    `tensors` is None where the maps run from packed weights.
    """

    norm1: NormTensors
    qkv: Linear
    out: ResidualLinear
    cross: CrossWeights | None
    norm2: NormTensors
    linear1: Linear
    linear2: ResidualLinear
    tensors: LayerTensors | None = None

    def __call__(self, x: Tensor, attend: Attend, attend_cross: Attend, n_texts: int) -> Tensor:
        """One layer over `x` float32 [rows, ..., D].

        Args:
            x: The residual stream.
            attend: From the fused projection [rows, ..., 3 D] to the heads' output [rows, ..., D].
            attend_cross: The same from the query [n_texts, ..., D].
            n_texts: How many rows, from the first one, can see a text. To the others
                cross-attention would add exactly zero.
        """
        x = self.out(x, attend(self.qkv(self.norm1(x))))
        if self.cross is not None:
            head = x[:n_texts]
            head = self.cross.out(head, attend_cross(self.cross.query(self.cross.norm(head))))
            x = head if n_texts == len(x) else torch.cat([head, x[n_texts:]])
        return self.linear2(x, self.linear1(self.norm2(x)))


@dataclass(frozen=True)
class StepWeights:
    """All weights of a decode step.

    Attributes:
        cfg: Shape of the model.
        packed: Whether linear layers run from packed weights.
        free_rows: The largest batch up to which the result of a row has the same bits in a batch of
            any size from two rows on; 0 if the size of the batch changes the bits.
        cache_dtype: Number format of caches and attention.
        embeddings: One table for all codebooks, float32 [K * (card + 1), D].
        offsets: Where each codebook's part begins: int64 [K].
        positions: Position vectors, float32 [cells, D].
        layers: The transformer.
        out_norm: The norm before the heads.
        heads: All K heads as one map, D to K * card.
        text_kv: The cross-attention's keys and values of all layers as one map, D to layers * 2 D;
            None where each layer has its own, which packed weights need to keep their bits.
        head_tensor: Their matrix [K * card, D]; None where the maps run from packed weights.
    """

    cfg: LMConfig
    packed: bool
    free_rows: int
    cache_dtype: torch.dtype
    embeddings: Tensor
    offsets: Tensor
    positions: Tensor
    layers: tuple[LayerWeights, ...]
    out_norm: NormTensors
    heads: Linear
    text_kv: Linear | None = None
    head_tensor: Matrix | None = None

    @property
    def text_block(self) -> int:
        """Cross-attention reads text cells in multiples of this."""
        return text_block(packed=self.packed)

    @property
    def device(self) -> torch.device:
        """The device of the steps."""
        return self.embeddings.device

    def embed(self, tokens: Tensor) -> Tensor:
        """Sum of the codebooks' embeddings, float32 [..., D], of `tokens` [..., K]."""
        summed: Tensor = F.embedding(tokens + self.offsets, self.embeddings).sum(-2)
        return summed

    def logits(self, x: Tensor) -> Tensor:
        """Logits float32 [..., K, card] of the last layer's output [..., D]."""
        out = self.heads(self.out_norm(x)).float()
        return out.view(*x.shape[:-1], self.cfg.n_codebooks, self.cfg.card)


def prepare(
    lm: LMModel,
    dtype: str,
    n_cells: int,
    *,
    packed: bool | None = None,
    device: torch.device | None = None,
) -> StepWeights:
    """Make the weights of `lm` ready for steps in `dtype` with up to `n_cells` positions.

    Args:
        lm: The model; it is left as it is.
        dtype: fp32, bf16 or fp16.
        n_cells: Number of positions: prefix and steps of the longest row.
        packed: Whether linear layers run from packed weights; None where the device can.
        device: The device of the steps; None takes the model's. Weights are moved one by one, in
            `dtype`, so that the device never holds a float32 copy of the model.

    Raises:
        ValueError: `dtype` is unknown, or the device does not compute in it.
    """
    cfg = lm.cfg
    device = device or lm.out_norm.weight.device
    compute = compute_dtype(dtype, device)
    if packed is None:
        packed = can_pack(device)
        if packed and compute == torch.bfloat16 and not has_fast_bf16():
            raise ValueError(
                "dtype='bf16' needs a CPU with AVX-512, which this one lacks; take 'fp32'"
            )
    maps = _Maps(compute, packed, device, int8=lm.int8 and not packed)
    embeddings = torch.cat([table.detach().float() for table in lm.emb.parameters()])
    head_tensor = maps.moved(torch.cat([head.detach() for head in lm.linears.parameters()]))
    heads = maps.plain(head_tensor)
    layers = tuple(_layer(cast(Layer, x), maps) for x in lm.transformer.layers)
    return StepWeights(
        cfg=cfg,
        packed=packed,
        free_rows=count_free_rows(_row_maps(layers[0], heads, cfg)) if packed else 0,
        cache_dtype=compute,
        embeddings=embeddings.to(device),
        offsets=torch.arange(cfg.n_codebooks, device=device) * (cfg.card + 1),
        positions=sinusoid(torch.arange(n_cells, device=device), cfg.dim),
        layers=layers,
        out_norm=_norm(lm.out_norm, device),
        heads=heads,
        text_kv=_text_kv(lm, maps),
        head_tensor=None if packed else head_tensor,
    )


def count_free_rows(maps: Sequence[tuple[Linear, int]]) -> int:
    """The largest batch up to which the batch size does not change the bits of a row's result.

    Whether it does depends on the machine's kernels, so they are run on random rows in batches of
    `PROBED_ROWS`.

    Args:
        maps: Linear maps and the width of their input.

    Returns:
        The largest of `PROBED_ROWS`, or 0 if any map gives other bits in any of these batches.
    """
    generator = torch.Generator().manual_seed(0)
    most = max(PROBED_ROWS)
    for linear, width in maps:
        x = torch.randn(most, width, generator=generator)
        whole = linear(x)
        if any(not torch.equal(linear(x[-n:]), whole[-n:]) for n in PROBED_ROWS):
            return 0
    return most


def _row_maps(layer: LayerWeights, heads: Linear, cfg: LMConfig) -> list[tuple[Linear, int]]:
    maps = [
        (layer.qkv, cfg.dim),
        (lambda x: layer.out(x, x), cfg.dim),
        (layer.linear1, cfg.dim),
        (lambda x: layer.linear2(x[:, : cfg.dim].contiguous(), x), cfg.ffn_dim),
        (heads, cfg.dim),
    ]
    return maps if layer.cross is None else [*maps, (layer.cross.query, cfg.dim)]


def drop_weights(lm: LMModel) -> None:
    """Free the weights that `prepare` has copied; the projections of the conditions stay."""
    for part in (lm.emb, lm.transformer, lm.out_norm, lm.linears):
        part.to("meta")


@dataclass(frozen=True)
class _Maps:
    """Makes linear maps in one number format on one device, of matrices in int8 if so asked."""

    dtype: torch.dtype
    packed: bool
    device: torch.device
    int8: bool

    def moved(self, weight: Tensor) -> Matrix:
        """`weight` in the format and on the device of the steps; what is there already stays."""
        if self.int8:
            matrix = quantise(weight)
            return Int8Matrix(*(part.to(self.device) for part in (matrix.values, matrix.scale)))
        return weight.detach().to(self.device, self.dtype).contiguous()

    def plain(self, weight: Matrix) -> Linear:
        return make_linear(weight, self.dtype, packed=self.packed)

    def gelu(self, weight: Matrix) -> Linear:
        return make_linear(weight, self.dtype, packed=self.packed, gelu=True)

    def residual(self, weight: Matrix) -> ResidualLinear:
        return make_residual_linear(weight, self.dtype, packed=self.packed)

    def norm(self, norm: nn.LayerNorm) -> NormTensors:
        return _norm(norm, self.device)


def _layer(layer: Layer, maps: _Maps) -> LayerWeights:
    attention, cross = layer.self_attn, None
    query, key_value = _scaled_query(attention)
    tensors = LayerTensors(
        qkv=maps.moved(torch.cat([query, key_value])),
        out=maps.moved(attention.out_proj.weight),
        linear1=maps.moved(layer.linear1.weight),
        linear2=maps.moved(layer.linear2.weight),
    )
    if layer.cross_attention is not None and layer.norm_cross is not None:
        query, key_value = _scaled_query(layer.cross_attention)
        cross_query = maps.moved(query)
        cross_out = maps.moved(layer.cross_attention.out_proj.weight)
        tensors = replace(tensors, cross_query=cross_query, cross_out=cross_out)
        cross = CrossWeights(
            norm=maps.norm(layer.norm_cross),
            query=maps.plain(cross_query),
            key_value=maps.plain(maps.moved(key_value)) if maps.packed else None,
            out=maps.residual(cross_out),
        )
    return LayerWeights(
        norm1=maps.norm(layer.norm1),
        qkv=maps.plain(tensors.qkv),
        out=maps.residual(tensors.out),
        cross=cross,
        norm2=maps.norm(layer.norm2),
        linear1=maps.gelu(tensors.linear1),
        linear2=maps.residual(tensors.linear2),
        tensors=None if maps.packed else tensors,
    )


def _text_kv(lm: LMModel, maps: _Maps) -> Linear | None:
    if maps.packed or lm.cfg.fuse != "cross":
        return None
    layers = (cast(Layer, layer).cross_attention for layer in lm.transformer.layers)
    return maps.plain(maps.moved(torch.cat([_scaled_query(x)[1] for x in layers if x is not None])))


def _scaled_query(attention: Attention) -> tuple[Tensor, Tensor]:
    """Projections to queries [D, D] and to keys and values [2 D, D]; the query projection includes
    the scale of the scores, 1 / sqrt(D / H)."""
    weight = attention.in_proj_weight.detach()
    dim = weight.shape[1]
    return weight[:dim] * (dim // attention.n_heads) ** -0.5, weight[dim:]


def _norm(norm: nn.LayerNorm, device: torch.device) -> NormTensors:
    weight, bias = (p.detach().to(device, torch.float32) for p in (norm.weight, norm.bias))
    return NormTensors(weight, bias, norm.eps)
