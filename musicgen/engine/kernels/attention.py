"""Attention of one query per row over the caches, as Triton kernels.

Self-attention takes two launches. In the first one, each program reads `SPLIT` cells of one head of
one row and leaves the largest score, the sum of the exponentials and the sum of the values weighted
by them; the second one joins the splits of a head in their order. The row's length is read from the
device, programs of splits behind it leave at once, and the program that owns the new cell writes
it. Cross-attention is one launch that walks over the text cells, which are few.

A row's result therefore depends on its own cells alone: not on other rows, on its place among them,
or on the size of the cache. Splits and tiles start at fixed cells, and what lies behind the row's
end adds exact zeros. Scores, softmax and sums are float32 in every number format.

The cost is reading the cells that a row sees, once. With one query there is one multiplication per
number read, so that tensor cores would not help.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from musicgen.engine.kernels.table import SPLIT, Configuration
from musicgen.engine.kv_cache import Cache


@triton.jit
def _add_tile(score, value, largest, total, summed):
    """The running softmax with one tile more: score [tile], -inf where a cell is not seen, and
    value [tile, block_dim]. The largest score is never -inf, as the first cell is seen."""
    peak = tl.maximum(largest, tl.max(score, axis=0))
    share = tl.exp(score - peak)
    keep = tl.exp(largest - peak)
    total = total * keep + tl.sum(share, axis=0)
    summed = summed * keep + tl.sum(share[:, None] * value, axis=0)
    return peak, total, summed


@triton.jit
def _attend_split(
    qkv,
    keys,
    values,
    rows,
    position,
    sums,
    stats,
    n_cells,
    n_heads: tl.constexpr,
    head_dim: tl.constexpr,
    block_dim: tl.constexpr,
    tile: tl.constexpr,
    split: tl.constexpr,
):
    """Attends to cells `split * part` .. of one head of one row, and writes the new cell.

    Grid: [heads, n, parts]. qkv [n, 3, H, D / H], sums [n, H, parts, D / H] and stats
    [n, H, parts, 2] float32, position int32 [n]: the cell of the new key.
    """
    head = tl.program_id(0)
    i = tl.program_id(1)
    part = tl.program_id(2)
    last = tl.load(position + i)
    if part * split > last:
        return
    row = tl.load(rows + i)
    dim = tl.arange(0, block_dim)
    in_head = dim < head_dim
    own = qkv + (i * 3 * n_heads + head) * head_dim + dim
    query = tl.load(own, mask=in_head, other=0.0).to(tl.float32)
    new_key = tl.load(own + n_heads * head_dim, mask=in_head, other=0.0)
    new_value = tl.load(own + 2 * n_heads * head_dim, mask=in_head, other=0.0)
    cache = (row * n_heads + head).to(tl.int64) * n_cells * head_dim

    largest = float("-inf")
    total = 0.0
    summed = tl.zeros([block_dim], dtype=tl.float32)
    for start in tl.static_range(0, split, tile):
        cell = part * split + start + tl.arange(0, tile)
        at = cache + cell[:, None] * head_dim + dim[None, :]
        cached = (cell < last)[:, None] & in_head[None, :]
        is_new = (cell == last)[:, None]
        key = tl.load(keys + at, mask=cached, other=0.0)
        value = tl.load(values + at, mask=cached, other=0.0)
        key = tl.where(is_new, new_key[None, :], key).to(tl.float32)
        value = tl.where(is_new, new_value[None, :], value).to(tl.float32)
        score = tl.sum(query[None, :] * key, axis=1)
        score = tl.where(cell <= last, score, float("-inf"))
        largest, total, summed = _add_tile(score, value, largest, total, summed)

    at_part = (i * n_heads + head) * tl.num_programs(2) + part
    tl.store(sums + at_part * head_dim + dim, summed, mask=in_head)
    tl.store(stats + at_part * 2, largest)
    tl.store(stats + at_part * 2 + 1, total)
    if part == last // split:
        at_new = cache + last * head_dim + dim
        tl.store(keys + at_new, new_key, mask=in_head)
        tl.store(values + at_new, new_value, mask=in_head)


@triton.jit
def _join_splits(
    sums,
    stats,
    position,
    out,
    n_parts: tl.constexpr,
    head_dim: tl.constexpr,
    block_dim: tl.constexpr,
    split: tl.constexpr,
):
    """Joins what `_attend_split` left of one head of one row into out [n, H, D / H].

    Grid: [heads, n].
    """
    head = tl.program_id(0)
    i = tl.program_id(1)
    last = tl.load(position + i)
    dim = tl.arange(0, block_dim)
    at_head = i * tl.num_programs(0) + head
    first = at_head * n_parts

    largest = float("-inf")
    for part in tl.static_range(n_parts):
        peak = tl.load(stats + (first + part) * 2, mask=part * split <= last, other=float("-inf"))
        largest = tl.maximum(largest, peak)
    total = 0.0
    summed = tl.zeros([block_dim], dtype=tl.float32)
    for part in tl.static_range(n_parts):
        seen = part * split <= last
        at = first + part
        peak = tl.load(stats + at * 2, mask=seen, other=float("-inf"))
        keep = tl.exp(peak - largest)
        total += keep * tl.load(stats + at * 2 + 1, mask=seen, other=0.0)
        mask = (dim < head_dim) & seen
        summed += keep * tl.load(sums + at * head_dim + dim, mask=mask, other=0.0)
    result = (summed / total).to(out.dtype.element_ty)
    tl.store(out + at_head * head_dim + dim, result, mask=dim < head_dim)


@triton.jit
def _attend_text(
    query,
    keys,
    values,
    rows,
    n_seen,
    out,
    n_cells,
    head_dim: tl.constexpr,
    block_dim: tl.constexpr,
    tile: tl.constexpr,
):
    """Attends to the first `n_seen` text cells of one head of one row.

    Grid: [heads, n]. query and out [n, H, D / H], n_seen int64 [R], by row as `keys` is.
    """
    n_heads = tl.num_programs(0)
    head = tl.program_id(0)
    i = tl.program_id(1)
    row = tl.load(rows + i)
    seen = tl.load(n_seen + row)
    dim = tl.arange(0, block_dim)
    in_head = dim < head_dim
    own = (i * n_heads + head) * head_dim + dim
    q = tl.load(query + own, mask=in_head, other=0.0).to(tl.float32)
    cache = (row * n_heads + head).to(tl.int64) * n_cells * head_dim

    largest = float("-inf")
    total = 0.0
    summed = tl.zeros([block_dim], dtype=tl.float32)
    for start in range(0, seen, tile):
        cell = start + tl.arange(0, tile)
        at = cache + cell[:, None] * head_dim + dim[None, :]
        mask = (cell < seen)[:, None] & in_head[None, :]
        key = tl.load(keys + at, mask=mask, other=0.0).to(tl.float32)
        value = tl.load(values + at, mask=mask, other=0.0).to(tl.float32)
        score = tl.sum(q[None, :] * key, axis=1)
        score = tl.where(cell < seen, score, float("-inf"))
        largest, total, summed = _add_tile(score, value, largest, total, summed)
    tl.store(out + own, (summed / total).to(out.dtype.element_ty), mask=in_head)


def n_parts(cache: Cache) -> int:
    """Splits of a row of `cache`."""
    return -(-cache.n_cells // SPLIT)


def attend(
    qkv: Tensor, cache: Cache, rows: Tensor, position: Tensor, configuration: Configuration
) -> Tensor:
    """Append one cell to each row of `cache` and attend to the row's cells, the new one included.

    Args:
        qkv: Queries, scaled by 1 / sqrt(D / H), keys and values [n, 3 D], in the cache's format.
        cache: Keys and values of one layer.
        rows: Which row of the cache each row of `qkv` is: int64 [n], all different.
        position: The cell that is appended; those before it are seen too: int32 [n].
        configuration: How kernels are launched.

    Returns:
        The heads' output [n, D] in the cache's format.
    """
    n, (_, n_heads, n_cells, head_dim) = len(qkv), cache.values.shape
    parts, block_dim = n_parts(cache), triton.next_power_of_2(head_dim)
    sums = torch.empty(n, n_heads, parts, head_dim, device=qkv.device)
    stats = torch.empty(n, n_heads, parts, 2, device=qkv.device)
    out = torch.empty(n, n_heads * head_dim, dtype=qkv.dtype, device=qkv.device)
    _attend_split[(n_heads, n, parts)](
        *(qkv, cache.keys, cache.values, rows, position, sums, stats, n_cells),
        n_heads=n_heads,
        head_dim=head_dim,
        block_dim=block_dim,
        tile=configuration.tile_cells(cache.values),
        split=SPLIT,
        num_warps=configuration.attend_warps,
    )
    _join_splits[(n_heads, n)](
        *(sums, stats, position, out),
        n_parts=parts,
        head_dim=head_dim,
        block_dim=block_dim,
        split=SPLIT,
        num_warps=1,
    )
    return out


def attend_text(
    query: Tensor, cache: Cache, rows: Tensor, n_seen: Tensor, configuration: Configuration
) -> Tensor:
    """Attend to the text cells of each row.

    Args:
        query: Scaled by 1 / sqrt(D / H): [n, D].
        cache: Keys and values of one layer.
        rows: Which row of the cache each query belongs to: int64, its first n entries are read.
        n_seen: Text cells that each row of the cache sees, at least 1: int64 [R].
        configuration: How kernels are launched.

    Returns:
        The heads' output [n, D], exactly 0 in rows whose cells are 0.
    """
    _, n_heads, n_cells, head_dim = cache.values.shape
    out = torch.empty_like(query)
    _attend_text[(n_heads, len(query))](
        *(query, cache.keys, cache.values, rows, n_seen, out, n_cells),
        head_dim=head_dim,
        block_dim=triton.next_power_of_2(head_dim),
        tile=min(64, configuration.tile_cells(cache.values)),
        num_warps=configuration.attend_warps,
    )
    return out
