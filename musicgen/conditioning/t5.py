"""The encoder of T5 (Raffel et al. 2020, arXiv:1910.10683), for inference.

Its tensors have the names of transformers' `T5EncoderModel`, and its results are the same bits.
transformers' own model is not used here, because to import its code takes longer than to import
torch.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from musicgen.modules.unfilled import unfilled

if TYPE_CHECKING:
    from transformers import T5Config


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU by its approximation with tanh (Hendrycks and Gimpel 2016), written out as T5 v1.1 was
    trained with it."""
    inner = math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))
    return 0.5 * x * (1.0 + torch.tanh(inner))


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": nn.functional.relu,
    "gelu": nn.functional.gelu,
    "gelu_new": gelu_tanh,
    "silu": nn.functional.silu,
}


class RMSNorm(nn.Module):
    """x / sqrt(mean(x²) + eps) · weight, over the last dimension (arXiv:1910.07467)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] of the same shape."""
        scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * (x * scale)


class SelfAttention(nn.Module):
    """Attention without scaling of the scores, to which a bias per head and distance is added.

    Args:
        config: Of the model.
        has_bias: Whether this layer holds the table of biases; the first one does, for all.
    """

    def __init__(self, config: "T5Config", has_bias: bool) -> None:
        super().__init__()
        self.n_heads = config.num_heads
        self.n_buckets = config.relative_attention_num_buckets
        self.max_distance = config.relative_attention_max_distance
        inner = config.num_heads * config.d_kv
        self.q = nn.Linear(config.d_model, inner, bias=False)
        self.k = nn.Linear(config.d_model, inner, bias=False)
        self.v = nn.Linear(config.d_model, inner, bias=False)
        self.o = nn.Linear(inner, config.d_model, bias=False)
        if has_bias:
            self.relative_attention_bias = nn.Embedding(self.n_buckets, config.num_heads)

    def position_bias(self, length: int) -> Tensor:
        """What is added to the scores [1, heads, length, length] of a text of `length` tokens."""
        at = torch.arange(length, device=self.relative_attention_bias.weight.device)
        buckets = self._buckets(at[None, :] - at[:, None])  # [L, L], of key minus query
        bias: Tensor = self.relative_attention_bias(buckets)  # [L, L, heads]
        return bias.permute(2, 0, 1)[None].contiguous()

    def _buckets(self, distance: Tensor) -> Tensor:
        """The row of the table for each signed distance: half of the rows are for keys after the
        query; of each half, the first half is for single distances, the rest grows by powers."""
        half: int = self.n_buckets // 2
        exact = half // 2
        far = distance.abs()
        powers = torch.log(far.float() / exact) / math.log(self.max_distance / exact)
        large = (exact + (powers * (half - exact)).long()).clamp(max=half - 1)
        return (distance > 0).long() * half + torch.where(far < exact, far, large)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """[B, L, d_model] of the same shape; `bias` as `position_bias` makes it."""
        q, k, v = (self._heads(layer(x)) for layer in (self.q, self.k, self.v))
        out = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)
        mixed: Tensor = self.o(out.transpose(1, 2).flatten(2))
        return mixed

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.n_heads, -1).transpose(1, 2)  # [B, heads, L, d_kv]


class FeedForward(nn.Module):
    """Two layers, or three with a gate (T5 v1.1)."""

    def __init__(self, config: "T5Config") -> None:
        super().__init__()
        self.gated = config.is_gated_act
        if self.gated:
            self.wi_0 = nn.Linear(config.d_model, config.d_ff, bias=False)
            self.wi_1 = nn.Linear(config.d_model, config.d_ff, bias=False)
        else:
            self.wi = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.wo = nn.Linear(config.d_ff, config.d_model, bias=False)
        self.activation = ACTIVATIONS[config.dense_act_fn]

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, d_model] of the same shape."""
        hidden = (
            self.activation(self.wi_0(x)) * self.wi_1(x)
            if self.gated
            else self.activation(self.wi(x))
        )
        out: Tensor = self.wo(hidden)
        return out


class AttentionLayer(nn.Module):
    """Attention with a norm before it and a residual around."""

    def __init__(self, config: "T5Config", has_bias: bool) -> None:
        super().__init__()
        self.SelfAttention = SelfAttention(config, has_bias)
        self.layer_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """[B, L, d_model] of the same shape."""
        heard: Tensor = self.SelfAttention(self.layer_norm(x), bias)
        return x + heard


class FeedForwardLayer(nn.Module):
    """Feed-forward layers with a norm before them and a residual around."""

    def __init__(self, config: "T5Config") -> None:
        super().__init__()
        self.DenseReluDense = FeedForward(config)
        self.layer_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, d_model] of the same shape."""
        out: Tensor = self.DenseReluDense(self.layer_norm(x))
        return x + out


class Block(nn.Module):
    """Attention, then the feed-forward layers."""

    def __init__(self, config: "T5Config", has_bias: bool) -> None:
        super().__init__()
        self.layer = nn.ModuleList([AttentionLayer(config, has_bias), FeedForwardLayer(config)])

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """[B, L, d_model] of the same shape."""
        attention, feed_forward = self.layer
        out: Tensor = feed_forward(attention(x, bias))
        return out


class Stack(nn.Module):
    """The blocks, and a norm behind them.

    Args:
        config: Of the model.
        table: The vectors of the tokens.
    """

    def __init__(self, config: "T5Config", table: nn.Embedding) -> None:
        super().__init__()
        self.embed_tokens = table
        self.block = nn.ModuleList(Block(config, index == 0) for index in range(config.num_layers))
        self.final_layer_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)

    def forward(self, ids: Tensor) -> Tensor:
        """[B, L, d_model] of tokens [B, L]."""
        x = self.embed_tokens(ids)
        first: Any = self.block[0]
        bias: Tensor = first.layer[0].SelfAttention.position_bias(ids.shape[1])
        for block in self.block:
            x = block(x, bias)
        out: Tensor = self.final_layer_norm(x)
        return out


class T5Encoder(nn.Module):
    """A T5 encoder without its weights.

    Args:
        config: Its sizes.

    Raises:
        ValueError: An activation that no T5 has.
    """

    def __init__(self, config: "T5Config") -> None:
        super().__init__()
        if config.dense_act_fn not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            raise ValueError(f"a T5 with activation {config.dense_act_fn!r}; known are {known}")
        self.config = config
        self.shared = nn.Embedding(config.vocab_size, config.d_model)
        self.encoder = Stack(config, self.shared)  # one table under two names

    @classmethod
    def of(cls, model: Any) -> "T5Encoder":
        """This class for a loaded `T5EncoderModel` of transformers, with the same tensors."""
        if isinstance(model, cls):
            return model
        with unfilled():
            own = cls(model.config)
        own.load_state_dict(model.state_dict(), assign=True)
        return own

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.shared.weight.device

    def forward(self, ids: Tensor) -> Tensor:
        """Hidden states [B, L, d_model] of tokens [B, L], all of which are text."""
        out: Tensor = self.encoder(ids)
        return out
