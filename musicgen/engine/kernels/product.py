"""The product of a few rows with a matrix in int8, as a Triton kernel.

The whole numbers go from memory into the product as they are, half the bytes of fp16. They are
exact in every format that the rows may have, sums are float32, and the scale of an output is
multiplied last. Rows are taken in tiles of `ROWS`, whatever their number, and columns in order, so
that a row's result has the same bits in any company.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from musicgen.engine.kernels.table import Configuration
from musicgen.lm.int8 import Int8Matrix

ROWS = 16  # the fewest that a tensor core takes
FLOAT32_COLUMNS = 32  # products in float32 run on no tensor core and are unrolled


@triton.jit
def _int8_product(
    x,
    values,
    scale,
    out,
    n_rows,
    n_out,
    width: tl.constexpr,
    block_rows: tl.constexpr,
    block_out: tl.constexpr,
    block_in: tl.constexpr,
    widened: tl.constexpr,
):
    """One tile of x [n_rows, width] times values int8 [n_out, width], times scale [n_out].

    Grid: [tiles of outputs, tiles of rows]. `widened` multiplies the same numbers in float32, since
    Triton's interpreter has no product of bfloat16 tiles.
    """
    column = tl.program_id(0) * block_out + tl.arange(0, block_out)
    row = tl.program_id(1) * block_rows + tl.arange(0, block_rows)
    total = tl.zeros([block_rows, block_out], dtype=tl.float32)
    for start in range(0, width, block_in):
        at = start + tl.arange(0, block_in)
        ours = tl.load(
            x + row[:, None] * width + at[None, :],
            mask=(row[:, None] < n_rows) & (at[None, :] < width),
            other=0.0,
        )
        theirs = tl.load(
            values + column[None, :] * width + at[:, None],
            mask=(column[None, :] < n_out) & (at[:, None] < width),
            other=0,
        )
        if widened:
            ours = ours.to(tl.float32)
        total = tl.dot(ours, theirs.to(ours.dtype), total, input_precision="ieee")
    total *= tl.load(scale + column, mask=column < n_out, other=0.0)[None, :]
    tl.store(
        out + row[:, None] * n_out + column[None, :],
        total.to(out.dtype.element_ty),
        mask=(row[:, None] < n_rows) & (column[None, :] < n_out),
    )


def int8_product(x: Tensor, matrix: Int8Matrix, configuration: Configuration) -> Tensor:
    """Contiguous `x` [n, in] times the transpose of `matrix` [out, in]: [n, out] in x's format."""
    (n, width), n_out = x.shape, len(matrix.scale)
    out = torch.empty(n, n_out, dtype=x.dtype, device=x.device)
    block = configuration.product_outputs
    _int8_product[(triton.cdiv(n_out, block), triton.cdiv(n, ROWS))](
        *(x, matrix.values, matrix.scale, out, n, n_out),
        width=width,
        block_rows=ROWS,
        block_out=block,
        block_in=FLOAT32_COLUMNS if x.dtype == torch.float32 else configuration.product_columns,
        widened=bool(triton.knobs.runtime.interpret),
        num_warps=configuration.product_warps,
    )
    return out
