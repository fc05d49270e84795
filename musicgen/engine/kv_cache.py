"""Keys and values of the cells that attention has seen, and how one query per row reads them.

Two forms hold the same numbers. `Cache` reads by two batched products: the form of a GPU, and the
plain one of a CPU. `BagCache` reads by weighted sums of table rows (`torch.embedding_bag`), which
on a CPU gets two to three times as much out of memory: scores are sums of key blocks weighted by
the query, outputs are sums of values weighted by the softmax. Both add one cell after the other, so
that cells which the mask hides (a share of exactly 0) leave the bits of a sum unchanged.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from musicgen.engine.weights import StepWeights


@dataclass(frozen=True)
class Bags:
    """Which rows of a table each sum takes: int32 indices [n], and where each bag begins [bags]."""

    rows: Tensor
    starts: Tensor

    @classmethod
    def of(cls, heads: Tensor, stride: int, n: int, size: int) -> "Bags":
        """The first `n` of the `stride` rows of each of `heads` [heads], in bags of `size`."""
        rows = heads[:, None] * stride + torch.arange(n, dtype=torch.int32)
        starts = torch.arange(0, len(heads) * n, size, dtype=torch.int32)
        return cls(rows.flatten(), starts)

    def sums(self, table: Tensor, shares: Tensor) -> Tensor:
        """Sums [bags, width] of rows of `table` [N, width], weighted by `shares` [n]."""
        summed: Tensor = torch.embedding_bag(
            table, self.rows, self.starts, mode=0, per_sample_weights=shares
        )[0]
        return summed


@dataclass(frozen=True)
class Reading:
    """What one step reads of a cache, the same for all layers.

    Attributes:
        bias: Added to scores, float32 [rows, 1, cells]: 0 where a cell is seen, else -inf.
        keys, values: The rows of a `BagCache`'s tables.
    """

    bias: Tensor
    keys: Bags | None = None
    values: Bags | None = None


Index = tuple[Tensor | slice, ...]


@dataclass(frozen=True)
class Seats:
    """Which cell of each row is written next: where that is in a cache's keys and in its values,
    the same for all layers."""

    keys: Index
    values: Index


@dataclass
class Cache:
    """Keys and values of one layer, [R, H, cells, D / H] each."""

    keys: Tensor
    values: Tensor

    @property
    def n_cells(self) -> int:
        """How many a row has."""
        return self.values.shape[2]

    def wipe(self, rows: list[int]) -> None:
        """Zero `rows`, so that what stands there can't reach the next clip through the mask."""
        self.keys[rows] = 0
        self.values[rows] = 0

    def seats(self, rows: Tensor, cells: Tensor) -> Seats:
        """Where `append` writes: `cells` [rows] of `rows` [rows]."""
        at = (rows, slice(None), cells)
        return Seats(at, at)

    def append(self, seats: Seats, keys: Tensor, values: Tensor) -> None:
        """Write `keys` and `values` [rows, H, D / H], one cell of each row."""
        self.keys[seats.keys] = keys.to(self.keys.dtype)
        self.values[seats.values] = values.to(self.values.dtype)

    def fill(self, rows: list[int], keys: Tensor, values: Tensor) -> None:
        """Write the first n cells of `rows`: [rows, H, n, D / H] each."""
        n = keys.shape[2]
        self.keys[rows, :, :n] = keys.to(self.keys.dtype)
        self.values[rows, :, :n] = values.to(self.values.dtype)

    def read(self, rows: list[int], n: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the first `n` cells of `rows`: [rows, H, n, D / H] each."""
        return self.keys[rows, :, :n], self.values[rows, :, :n]

    def reading(self, n_seen: Tensor, n_cells: int, rows: Tensor | None = None) -> Reading:
        """How to read the first `n_cells` of some rows, of which each sees `n_seen` [rows].

        Args:
            n_seen: Cells that each row sees.
            n_cells: Cells that are read.
            rows: Which rows [rows]; None, and that alone here, the first ones.
        """
        assert rows is None
        return Reading(key_bias(n_seen, n_cells))

    def attend(self, q: Tensor, reading: Reading) -> Tensor:
        """The heads' output [rows, D] for queries `q` [rows, H, D / H], the scores' scale in them.

        Faster than `scaled_dot_product_attention` with one query on a CPU, and indifferent to the
        row's position, which that is not. Keys on the left are read faster than on the right.
        """
        n_rows, n_heads, head_dim = q.shape
        n_cells = reading.bias.shape[-1]
        keys = self.keys[:n_rows, :, :n_cells].flatten(0, 1)  # [rows * H, cells, D / H], a view
        values = self.values[:n_rows, :, :n_cells].flatten(0, 1)
        q = q.to(keys.dtype).reshape(n_rows * n_heads, head_dim, 1)
        scores = torch.bmm(keys, q).view(n_rows, n_heads, n_cells)
        share = _softmax(scores, reading.bias).to(values.dtype)  # [rows, H, cells]
        out = torch.bmm(share.view(n_rows * n_heads, 1, n_cells), values)  # [rows * H, 1, D / H]
        return out.view(n_rows, n_heads * head_dim)


@dataclass
class BagCache(Cache):
    """The same with keys in blocks, [R, H, cells / block, D / H, block]: of a block, one dimension
    of all its keys is a row of the table."""

    @property
    def block(self) -> int:
        """Cells per block of keys."""
        return self.keys.shape[-1]

    def seats(self, rows: Tensor, cells: Tensor) -> Seats:
        """Where `append` writes: `cells` [rows] of `rows` [rows]."""
        blocks = torch.div(cells, self.block, rounding_mode="floor")
        every = slice(None)
        return Seats((rows, every, blocks, every, cells % self.block), (rows, every, cells))

    def fill(self, rows: list[int], keys: Tensor, values: Tensor) -> None:
        """Write the first n cells of `rows`: [rows, H, n, D / H] each."""
        n = keys.shape[2]
        keys = torch.nn.functional.pad(keys, (0, 0, 0, -n % self.block))
        blocks = keys.reshape(*keys.shape[:2], -1, self.block, keys.shape[-1]).transpose(-1, -2)
        self.keys[rows, :, : blocks.shape[2]] = blocks.to(self.keys.dtype)
        self.values[rows, :, :n] = values.to(self.values.dtype)

    def read(self, rows: list[int], n: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the first `n` cells of `rows`: [rows, H, n, D / H] each."""
        blocks = self.keys[rows, :, : -(-n // self.block)].transpose(-1, -2)
        return blocks.flatten(2, 3)[:, :, :n], self.values[rows, :, :n]

    def reading(self, n_seen: Tensor, n_cells: int, rows: Tensor | None = None) -> Reading:
        """How to read the first `n_cells` of any `rows` [rows], of which each sees `n_seen`."""
        _, n_heads, n_blocks, head_dim, block = self.keys.shape
        if rows is None:
            rows = torch.arange(len(n_seen))
        heads = (rows.int()[:, None] * n_heads + torch.arange(n_heads, dtype=torch.int32)).flatten()
        return Reading(
            key_bias(n_seen, n_cells),
            Bags.of(heads, n_blocks * head_dim, n_cells // block * head_dim, head_dim),
            Bags.of(heads, self.n_cells, n_cells, n_cells),
        )

    def attend(self, q: Tensor, reading: Reading) -> Tensor:
        """The heads' output [rows, D] for queries `q` [rows, H, D / H], their scale included."""
        assert reading.keys is not None
        assert reading.values is not None
        n_rows, n_heads, head_dim = q.shape
        n_cells = reading.bias.shape[-1]
        repeated = q.to(self.keys.dtype)[:, :, None].expand(-1, -1, n_cells // self.block, -1)
        scores = reading.keys.sums(self.keys.view(-1, self.block), repeated.reshape(-1))
        share = _softmax(scores.view(n_rows, n_heads, n_cells), reading.bias)
        shares = share.to(self.values.dtype).view(-1)
        out = reading.values.sums(self.values.view(-1, head_dim), shares)  # [rows * H, D / H]
        return out.view(n_rows, n_heads * head_dim)


def empty_cache(
    n_rows: int,
    n_cells: int,
    weights: StepWeights,
    block: int,
    form: type[Cache] | None = None,
) -> Cache:
    """A cache of zeros: what is masked must still be finite.

    Args:
        n_rows, n_cells: Its size.
        weights: Whose keys and values it is for.
        block: By how many cells it is read; divides `n_cells`.
        form: None for the one that suits `weights`: bags beside packed linears.
    """
    cfg = weights.cfg
    shape = (n_rows, cfg.n_heads, n_cells, cfg.head_dim)
    values = torch.zeros(shape, dtype=weights.cache_dtype, device=weights.device)
    if (form or (BagCache if weights.packed else Cache)) is Cache:
        return Cache(torch.zeros_like(values), values)
    keys = values.new_zeros(n_rows, cfg.n_heads, n_cells // block, cfg.head_dim, block)
    return BagCache(keys, values)


def grown(cache: Cache, n_cells: int, weights: StepWeights, block: int) -> Cache:
    """A cache of `n_cells` that begins with what `cache` holds."""
    new = empty_cache(len(cache.values), n_cells, weights, block)
    new.keys[:, :, : cache.keys.shape[2]] = cache.keys
    new.values[:, :, : cache.n_cells] = cache.values
    return new


def key_bias(n_seen: Tensor, n_keys: int) -> Tensor:
    """What is added to scores, float32 [R, 1, n_keys]: 0 for the first `n_seen` [R], else -inf."""
    seen = torch.arange(n_keys, device=n_seen.device) < n_seen[:, None]  # [R, n_keys]
    return torch.where(seen, 0.0, -torch.inf)[:, None]


def _softmax(scores: Tensor, bias: Tensor) -> Tensor:
    return torch.softmax(scores.float() + bias, dim=-1)
