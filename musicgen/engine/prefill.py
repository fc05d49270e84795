"""Prefill: conditions and prompt of one clip enter the caches of its rows.

A clip is prefilled alone, so that its numbers do not depend on other clips.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from musicgen.conditioning.fuser import RowCondition
from musicgen.engine.kv_cache import Cache, grown, key_bias
from musicgen.engine.linear import upload
from musicgen.engine.step import DecodeState, round_up
from musicgen.engine.weights import StepWeights
from musicgen.modules.transformer import merge_heads, split_heads


def fill_cross(
    weights: StepWeights, state: DecodeState, rows: list[int], conditions: list[RowCondition]
) -> bool:
    """Fill the cross-attention caches of `rows`; zeros stand for a row without text.

    Args:
        weights: The model.
        state: Its `cross_caches` and `n_cross` are written in `rows`.
        rows: The clip's rows.
        conditions: One per row, with text [L, D] or none.

    Returns:
        Whether the caches had to grow, which replaces their tensors by new ones.
    """
    if not state.cross_caches:
        return False
    has_grown = False
    for row, condition in zip(rows, conditions, strict=True):
        text = condition.cross  # [L, D] or None
        n_text = 1 if text is None else len(text)
        has_grown |= _grow(weights, state, n_text)
        state.n_cross[row].fill_(n_text)
        if text is None:
            for cache in state.cross_caches:
                cache.wipe(slice(row, row + 1))
        else:
            _fill_text(weights, state.cross_caches, row, text.to(weights.device))
    return has_grown


def _fill_text(weights: StepWeights, caches: list[Cache], row: int, text: Tensor) -> None:
    """Fill a row of the cross-attention caches with keys and values of `text` [L, D]."""
    n_text, n_heads = len(text), weights.cfg.n_heads
    at = slice(row, row + 1)
    if weights.text_kv is not None:
        kv = weights.text_kv(text).view(n_text, len(caches), 2, n_heads, -1)
        heads = kv.permute(1, 2, 3, 0, 4)  # [layers, 2, H, L, D / H]
        for cache, (keys, values) in zip(caches, heads, strict=True):
            cache.fill(at, keys[None], values[None])
        return
    for layer, cache in zip(weights.layers, caches, strict=True):
        assert layer.cross is not None
        assert layer.cross.key_value is not None
        kv = layer.cross.key_value(text)  # [L, 2 D]
        keys, values = kv.view(1, n_text, 2, n_heads, -1).transpose(1, 3).unbind(2)
        cache.fill(at, keys, values)  # [1, H, L, D / H] each


def _grow(weights: StepWeights, state: DecodeState, n_text: int) -> bool:
    """Grow the cross-attention caches to `n_text` cells; returns whether that was needed."""
    has_grown = False
    # One after the other, so that only one layer's old cells are held beside the new ones.
    for index, cache in enumerate(state.cross_caches):
        if n_text > cache.n_cells:
            state.cross_caches[index] = grown(cache, round_up(n_text), weights, weights.text_block)
            has_grown = True
    return has_grown


def fill_prefix(
    weights: StepWeights,
    state: DecodeState,
    rows: list[int],
    conditions: list[RowCondition],
    tokens: Tensor,
) -> None:
    """Run a clip's prefix and the steps before its first decision through the model.

    Args:
        weights: The model.
        state: Its caches are filled in `rows`.
        rows: The clip's rows.
        conditions: One per row, with prefixes of one length [P + L, D] or none.
        tokens: Steps to feed, int64 [K, n]; may be empty.
    """
    x = _inputs(weights, conditions, tokens)  # [rows, n_fed, D]
    n_fed, n_heads = x.shape[1], weights.cfg.n_heads
    if n_fed == 0:
        return
    n_text = max(1 if c.cross is None else len(c.cross) for c in conditions)
    at = upload(torch.tensor(rows), weights.device)
    cross_bias = key_bias(state.n_cross[at], round_up(n_text))[:, None]  # [rows, 1, 1, L]
    for index, layer in enumerate(weights.layers):

        def attend(qkv: Tensor, cache: Cache = state.caches[index]) -> Tensor:
            q, k, v = (split_heads(t, n_heads) for t in qkv.chunk(3, dim=-1))
            cache.fill(at, k, v)
            return merge_heads(F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0))

        def attend_cross(query: Tensor, index: int = index) -> Tensor:
            cache = state.cross_caches[index]
            keys, values = cache.read(at, cross_bias.shape[-1])
            q = split_heads(query, n_heads).to(keys.dtype)  # [rows, H, n, D / H]
            mask = cross_bias.to(q.dtype)
            out = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask, scale=1.0)
            return merge_heads(out)

        x = layer(x, attend, attend_cross, n_texts=len(x))


def _inputs(weights: StepWeights, conditions: list[RowCondition], tokens: Tensor) -> Tensor:
    """Prefix and tokens with their positions, float32 [rows, P + L + n, D]."""
    x = weights.embed(tokens.T.to(weights.device)).expand(len(conditions), -1, -1)  # [rows, n, D]
    prefixes = [c.prefix for c in conditions if c.prefix is not None]
    if prefixes:
        x = torch.cat([torch.stack(prefixes).to(x), x], dim=1)  # [rows, P + L + n, D]
    return x + weights.positions[: x.shape[1]]
