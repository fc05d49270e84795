"""Both forms of a cache hold and read the same numbers."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from musicgen.engine.kv_cache import BagCache, Cache, empty_cache, grown
from musicgen.engine.linear import has_fast_bf16
from musicgen.engine.weights import StepWeights, prepare
from tests.musicgen.toy import toy_lm

BF16 = pytest.param("bf16", marks=pytest.mark.skipif(not has_fast_bf16(), reason="no AVX-512"))
N_ROWS, N_CELLS, SEEN = 5, 192, (1, 64, 65, 130, 17)


@pytest.fixture(scope="module", params=["fp32", BF16])
def weights(request: pytest.FixtureRequest) -> StepWeights:
    return prepare(toy_lm("cross"), request.param, N_CELLS)


def numbers(weights: StepWeights, *shape: int) -> Tensor:
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)))
    return drawn.to(weights.cache_dtype).float()


def filled(form: type[Cache], weights: StepWeights, block: int) -> Cache:
    """A row for each of SEEN: all but its last cell as a prefix, the last by itself."""
    cfg = weights.cfg
    cache = empty_cache(N_ROWS, N_CELLS, weights, block, form)
    cells = numbers(weights, 2, cfg.n_heads, N_CELLS, cfg.head_dim)
    for row, n in enumerate(SEEN):
        if n > 1:
            cache.fill([row], *cells[:, None, :, : n - 1])
    last = torch.tensor(SEEN) - 1
    written = cache.cells_to_write(torch.arange(N_ROWS), last)
    cache.append(written, *cells[:, :, last].transpose(1, 2))
    return cache


@pytest.mark.parametrize("block", [16, 64])
def test_bags_give_what_products_give(weights: StepWeights, block: int) -> None:
    plain, bags = (filled(form, weights, block) for form in (Cache, BagCache))
    q = numbers(weights, N_ROWS, weights.cfg.n_heads, weights.cfg.head_dim)
    seen = torch.tensor(SEEN)
    ours, theirs = (cache.attend(q, cache.cells_to_read(seen, 192)) for cache in (bags, plain))
    close = 1e-6 if weights.cache_dtype == torch.float32 else 2e-2
    torch.testing.assert_close(ours.float(), theirs.float(), rtol=close, atol=close)
    for row, n in enumerate(SEEN):
        for read, expected in zip(bags.read([row], n), plain.read([row], n), strict=True):
            assert torch.equal(read, expected)


@pytest.mark.parametrize("form", [Cache, BagCache])
def test_hidden_cells_and_other_rows_leave_the_bits_alone(
    weights: StepWeights, form: type[Cache]
) -> None:
    cache = filled(form, weights, 64)
    q = numbers(weights, N_ROWS, weights.cfg.n_heads, weights.cfg.head_dim)
    seen = torch.tensor(SEEN)
    few = cache.attend(q[:3], cache.cells_to_read(seen[:3], 128))
    crowded = replace(cache, keys=cache.keys.clone(), values=cache.values.clone())
    crowded.fill([3, 4], *(50 * part[[3, 4]] for part in crowded.read(list(range(5)), 192)))
    assert torch.equal(crowded.attend(q, cache.cells_to_read(seen, 192))[:3], few)


def test_a_wider_cache_begins_with_the_old_one(weights: StepWeights) -> None:
    old = filled(BagCache, weights, 16)
    wide = grown(old, 256, replace(weights, packed=True), 16)
    assert wide.n_cells == 256
    for was, now in zip(old.read([3], 130), wide.read([3], 130), strict=True):
        assert torch.equal(was, now)


def test_a_wiped_row_is_zero_and_its_neighbours_stay(weights: StepWeights) -> None:
    cache = filled(BagCache, weights, 64)
    before = [part.clone() for part in cache.read([2], 65)]
    cache.wipe([1, 3])
    assert not any(part.any() for part in cache.read([1, 3], 192))
    assert all(torch.equal(a, b) for a, b in zip(cache.read([2], 65), before, strict=True))
