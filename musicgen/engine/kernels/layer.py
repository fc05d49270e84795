"""What stands between the matrix products of a step, as Triton kernels: embedding, norms, GELU.

Each is one pass over memory where the eager step takes three to seven. A program has one row, whose
result depends on nothing else.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from musicgen.engine.kernels.table import Configuration
from musicgen.engine.step import DecodeState
from musicgen.engine.weights import NormTensors, StepWeights


@triton.jit
def _normalise(x, weight, bias, column, in_row, width: tl.constexpr, eps: tl.constexpr):
    """The layer norm of `x` float32 [block], of which `in_row` are the row's columns."""
    mean = tl.sum(x, axis=0) / width
    centred = tl.where(in_row, x - mean, 0.0)
    variance = tl.sum(centred * centred, axis=0) / width
    scale = 1.0 / tl.sqrt_rn(variance + eps)
    gain = tl.load(weight + column, mask=in_row, other=0.0)
    shift = tl.load(bias + column, mask=in_row, other=0.0)
    return centred * scale * gain + shift


@triton.jit
def _embed_row(
    sequence,
    step,
    n_prefix,
    rows,
    embeddings,
    positions,
    weight,
    bias,
    x,
    normed,
    position,
    n_steps,
    n_codebooks: tl.constexpr,
    table_rows: tl.constexpr,
    width: tl.constexpr,
    eps: tl.constexpr,
    block: tl.constexpr,
):
    """Embeds the tokens that a row feeds, adds its position and applies the first norm.

    Grid: [n]. sequence int64 [R, K, S]; step and n_prefix int64 [R].
    """
    i = tl.program_id(0)
    row = tl.load(rows + i)
    at = tl.load(step + row)
    cell = tl.load(n_prefix + row) + at
    column = tl.arange(0, block)
    in_row = column < width
    summed = tl.zeros([block], dtype=tl.float32)
    for k in tl.static_range(n_codebooks):
        token = tl.load(sequence + (row * n_codebooks + k) * n_steps + at)
        table_row = k * table_rows + token
        summed += tl.load(embeddings + table_row * width + column, mask=in_row, other=0.0)
    summed += tl.load(positions + cell * width + column, mask=in_row, other=0.0)
    tl.store(x + i * width + column, summed, mask=in_row)
    result = _normalise(summed, weight, bias, column, in_row, width, eps)
    tl.store(normed + i * width + column, result.to(normed.dtype.element_ty), mask=in_row)
    tl.store(position + i, cell.to(tl.int32))


@triton.jit
def _add_and_norm_row(
    x,
    branch,
    weight,
    bias,
    normed,
    n_added,
    width: tl.constexpr,
    eps: tl.constexpr,
    block: tl.constexpr,
):
    """Adds a row of `branch`, which has `n_added` rows, to the row of `x`, and normalises that.

    Grid: [n]. x float32 [n, D]; branch and normed in the products' format.
    """
    i = tl.program_id(0)
    column = tl.arange(0, block)
    in_row = column < width
    at = i * width + column
    added = tl.load(branch + at, mask=in_row & (i < n_added), other=0.0).to(tl.float32)
    stream = tl.load(x + at, mask=in_row, other=0.0) + added
    tl.store(x + at, stream, mask=in_row)
    result = _normalise(stream, weight, bias, column, in_row, width, eps)
    tl.store(normed + at, result.to(normed.dtype.element_ty), mask=in_row)


@triton.jit
def _gelu_block(x, n, block: tl.constexpr):
    """Replaces x by its GELU, the exact one, computed in float32. Grid: [blocks]."""
    at = tl.program_id(0) * block + tl.arange(0, block)
    inside = at < n
    value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    result = 0.5 * value * (1.0 + tl.erf(value * 0.7071067811865476))
    tl.store(x + at, result.to(x.dtype.element_ty), mask=inside)


def embed_rows(
    weights: StepWeights,
    state: DecodeState,
    rows: Tensor,
    norm: NormTensors,
    configuration: Configuration,
) -> tuple[Tensor, Tensor, Tensor]:
    """What the first layer starts from.

    Args:
        weights: The model.
        state: The rows, each of which feeds its current step.
        rows: Which of them are computed: int64 [n].
        norm: The first norm of the first layer.
        configuration: How kernels are launched.

    Returns:
        The residual stream float32 [n, D], its norm [n, D] in the products' format, and the cell
        of each row int32 [n].
    """
    _, n_codebooks, n_steps = state.sequence.shape
    n, width = len(rows), weights.cfg.dim
    x = torch.empty(n, width, device=rows.device)
    normed = torch.empty(n, width, dtype=weights.cache_dtype, device=rows.device)
    position = torch.empty(n, dtype=torch.int32, device=rows.device)
    _embed_row[(n,)](
        *(state.sequence, state.step, state.n_prefix, rows),
        *(weights.embeddings, weights.positions, norm.weight, norm.bias),
        *(x, normed, position, n_steps),
        n_codebooks=n_codebooks,
        table_rows=weights.cfg.card + 1,
        width=width,
        eps=norm.eps,
        block=triton.next_power_of_2(width),
        num_warps=configuration.row_warps,
    )
    return x, normed, position


def add_and_norm(
    x: Tensor, branch: Tensor, norm: NormTensors, configuration: Configuration
) -> Tensor:
    """Add `branch` [m, D] to the first m rows of `x` float32 [n, D], in place; returns the norm of
    all rows [n, D] in the format of `branch`."""
    n, width = x.shape
    normed = torch.empty(n, width, dtype=branch.dtype, device=x.device)
    _add_and_norm_row[(n,)](
        *(x, branch, norm.weight, norm.bias, normed, len(branch)),
        width=width,
        eps=norm.eps,
        block=triton.next_power_of_2(width),
        num_warps=configuration.row_warps,
    )
    return normed


def gelu_(x: Tensor, configuration: Configuration) -> Tensor:
    """Replace contiguous `x` by its GELU."""
    n, block = x.numel(), configuration.gelu_block
    _gelu_block[(triton.cdiv(n, block),)](x, n, block=block, num_warps=4)
    return x
