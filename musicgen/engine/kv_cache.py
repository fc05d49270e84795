"""The key-value cache, and attention of one query per row over it.

Two classes hold the same numbers in different layouts. `Cache` computes attention by two batched
matrix products; a GPU uses it, and so does a CPU without packed weights. `BagCache` computes it by
weighted sums of table rows (`torch.embedding_bag`), which reads memory two to three times as fast
on a CPU: scores are sums of key blocks weighted by the query, outputs are sums of values weighted
by the softmax. Both add one cell after the other, so that cells which the mask hides (a weight of
exactly 0) leave the bits of a sum unchanged.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from musicgen.engine.weights import StepWeights


@dataclass(frozen=True)
class Bags:
    """Groups of table rows, each of which `torch.embedding_bag` sums up.

    Attributes:
        rows: Indices of the table rows of all bags, one bag after the other: int32 [n].
        starts: Where in `rows` each bag begins: int32 [bags].
    """

    rows: Tensor
    starts: Tensor

    @classmethod
    def of(cls, heads: Tensor, stride: int, n: int, size: int) -> "Bags":
        """The first `n` of the `stride` rows of each of `heads` [heads], in bags of `size`."""
        rows = heads[:, None] * stride + torch.arange(n, dtype=torch.int32)
        starts = torch.arange(0, len(heads) * n, size, dtype=torch.int32)
        return cls(rows.flatten(), starts)

    def sums(self, table: Tensor, weights: Tensor) -> Tensor:
        """Sums [bags, width] of rows of `table` [N, width], weighted by `weights` [n]."""
        summed: Tensor = torch.embedding_bag(
            table, self.rows, self.starts, mode=0, per_sample_weights=weights
        )[0]
        return summed


@dataclass(frozen=True)
class CellsToRead:
    """The cells that one step reads, the same in the caches of all layers.

    Attributes:
        bias: Added to scores, float32 [rows, 1, cells]: 0 where a cell is seen, else -inf.
        keys, values: The same cells as rows of a `BagCache`'s tables; None for a `Cache`.
    """

    bias: Tensor
    keys: Bags | None = None
    values: Bags | None = None


Index = tuple[Tensor | slice, ...]
Rows = list[int] | slice | Tensor  # a list is copied to the device, the others are not


@dataclass(frozen=True)
class CellsToWrite:
    """The cell of each row that one step writes, as an index into a cache's keys and one into its
    values, the same in the caches of all layers."""

    keys: Index
    values: Index


@dataclass
class Cache:
    """Keys and values of one layer, [R, H, cells, D / H] each."""

    keys: Tensor
    values: Tensor

    @property
    def n_cells(self) -> int:
        """Cells of a row."""
        return self.values.shape[2]

    def wipe(self, rows: Rows) -> None:
        """Zero `rows`: a NaN in a masked cell would still reach the next clip."""
        self.keys[rows] = 0
        self.values[rows] = 0

    def cells_to_write(self, rows: Tensor, cells: Tensor) -> CellsToWrite:
        """The argument of `append` for cell `cells[i]` of row `rows[i]`, int64 [n] each."""
        at = (rows, slice(None), cells)
        return CellsToWrite(at, at)

    def append(self, cells: CellsToWrite, keys: Tensor, values: Tensor) -> None:
        """Write `keys` and `values` [rows, H, D / H], one cell of each row."""
        self.keys[cells.keys] = keys.to(self.keys.dtype)
        self.values[cells.values] = values.to(self.values.dtype)

    def fill(self, rows: Rows, keys: Tensor, values: Tensor) -> None:
        """Write the first n cells of `rows`: [rows, H, n, D / H] each."""
        n = keys.shape[2]
        self.keys[rows, :, :n] = keys.to(self.keys.dtype)
        self.values[rows, :, :n] = values.to(self.values.dtype)

    def read(self, rows: Rows, n: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the first `n` cells of `rows`: [rows, H, n, D / H] each."""
        return self.keys[rows, :, :n], self.values[rows, :, :n]

    def cells_to_read(
        self, n_seen: Tensor, n_cells: int, rows: Tensor | None = None
    ) -> CellsToRead:
        """The argument of `attend` for queries of the rows `rows`.

        Args:
            n_seen: Cells that each row sees: int64 [n].
            n_cells: Cells that are read, the others masked; at least the largest `n_seen`.
            rows: The rows, int64 [n]; None takes the first n. This layout supports only None.
        """
        assert rows is None
        return CellsToRead(key_bias(n_seen, n_cells))

    def attend(self, q: Tensor, cells: CellsToRead) -> Tensor:
        """The heads' output [rows, D] for queries `q` [rows, H, D / H], scaled by 1 / sqrt(D / H).

        For one query on a CPU this is faster than `scaled_dot_product_attention`, whose bits also
        depend on the row's position. The product with keys as its left operand is the faster one.
        """
        n_rows, n_heads, head_dim = q.shape
        n_cells = cells.bias.shape[-1]
        keys = self.keys[:n_rows, :, :n_cells].flatten(0, 1)  # [rows * H, cells, D / H], a view
        values = self.values[:n_rows, :, :n_cells].flatten(0, 1)
        q = q.to(keys.dtype).reshape(n_rows * n_heads, head_dim, 1)
        scores = torch.bmm(keys, q).view(n_rows, n_heads, n_cells)
        share = _softmax(scores, cells.bias).to(values.dtype)  # [rows, H, cells]
        out = torch.bmm(share.view(n_rows * n_heads, 1, n_cells), values)  # [rows * H, 1, D / H]
        return out.view(n_rows, n_heads * head_dim)


@dataclass
class BagCache(Cache):
    """A cache whose keys are stored in blocks of cells: [R, H, cells / block, D / H, block].

    One dimension of all keys in a block is contiguous, so that scores are weighted sums of such
    vectors. Values are laid out as in `Cache`.
    """

    @property
    def block(self) -> int:
        """Cells per block of keys."""
        return self.keys.shape[-1]

    def cells_to_write(self, rows: Tensor, cells: Tensor) -> CellsToWrite:
        """The argument of `append` for cell `cells[i]` of row `rows[i]`, int64 [n] each."""
        blocks = torch.div(cells, self.block, rounding_mode="floor")
        every = slice(None)
        return CellsToWrite((rows, every, blocks, every, cells % self.block), (rows, every, cells))

    def fill(self, rows: Rows, keys: Tensor, values: Tensor) -> None:
        """Write the first n cells of `rows`: [rows, H, n, D / H] each."""
        n = keys.shape[2]
        keys = torch.nn.functional.pad(keys, (0, 0, 0, -n % self.block))
        blocks = keys.reshape(*keys.shape[:2], -1, self.block, keys.shape[-1]).transpose(-1, -2)
        self.keys[rows, :, : blocks.shape[2]] = blocks.to(self.keys.dtype)
        self.values[rows, :, :n] = values.to(self.values.dtype)

    def read(self, rows: Rows, n: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the first `n` cells of `rows`: [rows, H, n, D / H] each."""
        blocks = self.keys[rows, :, : -(-n // self.block)].transpose(-1, -2)
        return blocks.flatten(2, 3)[:, :, :n], self.values[rows, :, :n]

    def cells_to_read(
        self, n_seen: Tensor, n_cells: int, rows: Tensor | None = None
    ) -> CellsToRead:
        """As `Cache.cells_to_read`, for any rows."""
        _, n_heads, n_blocks, head_dim, block = self.keys.shape
        if rows is None:
            rows = torch.arange(len(n_seen))
        heads = (rows.int()[:, None] * n_heads + torch.arange(n_heads, dtype=torch.int32)).flatten()
        return CellsToRead(
            key_bias(n_seen, n_cells),
            Bags.of(heads, n_blocks * head_dim, n_cells // block * head_dim, head_dim),
            Bags.of(heads, self.n_cells, n_cells, n_cells),
        )

    def attend(self, q: Tensor, cells: CellsToRead) -> Tensor:
        """The heads' output [rows, D] for queries `q` [rows, H, D / H], scaled by 1 / sqrt(D / H).

        `cells` comes from `BagCache.cells_to_read`.
        """
        assert cells.keys is not None
        assert cells.values is not None
        n_rows, n_heads, head_dim = q.shape
        n_cells = cells.bias.shape[-1]
        repeated = q.to(self.keys.dtype)[:, :, None].expand(-1, -1, n_cells // self.block, -1)
        scores = cells.keys.sums(self.keys.view(-1, self.block), repeated.reshape(-1))
        share = _softmax(scores.view(n_rows, n_heads, n_cells), cells.bias)
        shares = share.to(self.values.dtype).view(-1)
        out = cells.values.sums(self.values.view(-1, head_dim), shares)  # [rows * H, D / H]
        return out.view(n_rows, n_heads * head_dim)


def empty_cache(
    n_rows: int,
    n_cells: int,
    weights: StepWeights,
    block: int,
    form: type[Cache] | None = None,
) -> Cache:
    """A cache of zeros, because masked cells must still hold finite numbers.

    Args:
        n_rows: Rows R.
        n_cells: Cells of a row.
        weights: The model, which decides number format, device and layout.
        block: Cells are read in multiples of this, which divides `n_cells`.
        form: The layout; None takes `BagCache` beside packed linear layers, else `Cache`.
    """
    cfg = weights.cfg
    shape = (n_rows, cfg.n_heads, n_cells, cfg.head_dim)
    values = torch.zeros(shape, dtype=weights.cache_dtype, device=weights.device)
    if (form or (BagCache if weights.packed else Cache)) is Cache:
        return Cache(torch.zeros_like(values), values)
    keys = values.new_zeros(n_rows, cfg.n_heads, n_cells // block, cfg.head_dim, block)
    return BagCache(keys, values)


def grown(cache: Cache, n_cells: int, weights: StepWeights, block: int) -> Cache:
    """A copy of `cache` with `n_cells` cells; the new ones are zero."""
    new = empty_cache(len(cache.values), n_cells, weights, block)
    new.keys[:, :, : cache.keys.shape[2]] = cache.keys
    new.values[:, :, : cache.n_cells] = cache.values
    return new


def key_bias(n_seen: Tensor, n_keys: int) -> Tensor:
    """The mask that is added to scores, float32 [R, 1, n_keys]: 0 for the first `n_seen` [R] keys,
    else -inf."""
    seen = torch.arange(n_keys, device=n_seen.device) < n_seen[:, None]  # [R, n_keys]
    return torch.where(seen, 0.0, -torch.inf)[:, None]


def _softmax(scores: Tensor, bias: Tensor) -> Tensor:
    return torch.softmax(scores.float() + bias, dim=-1)
