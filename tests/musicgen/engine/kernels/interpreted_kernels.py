"""Each kernel against torch's own operators, and what a row's bits must not depend on."""

import random

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from musicgen.config import SamplingParams
from musicgen.engine.kernels.attention import attend, attend_text
from musicgen.engine.kernels.layer import add_and_norm, embed_rows, gelu_
from musicgen.engine.kernels.product import int8_product
from musicgen.engine.kernels.sampling import decide_tokens
from musicgen.engine.kernels.table import SPLIT, Configuration
from musicgen.engine.kv_cache import Cache
from musicgen.engine.step import DecodeState, StepShape, decide
from musicgen.engine.weights import NormTensors, prepare
from musicgen.lm.delay_pattern import UNKNOWN
from musicgen.lm.int8 import quantise
from musicgen.lm.sampling import FilterShape
from tests.musicgen.toy import toy_lm

HEADS, HEAD_DIM = 2, 12  # a head that is no power of two is padded
WIDTH = HEADS * HEAD_DIM
LAUNCH = Configuration(tile_bytes=SPLIT * 64, attend_warps=4)
CLOSE = {torch.float32: 2e-6, torch.bfloat16: 2e-2}


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def random_cache(n_rows: int, n_cells: int, dtype: torch.dtype = torch.float32) -> Cache:
    """The cells of a row are the same numbers in a cache of any size."""
    cells = torch.stack([normal(c, 2, n_rows, HEADS, HEAD_DIM) for c in range(n_cells)], dim=3)
    return Cache(*cells.to(dtype).contiguous())


def attend_eagerly(q: Tensor, cache: Cache, rows: Tensor, n_seen: Tensor) -> Tensor:
    some = Cache(cache.keys[rows].double(), cache.values[rows].double())
    q = q.view(len(rows), HEADS, HEAD_DIM).double()
    return some.attend(q, some.cells_to_read(n_seen, cache.n_cells))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("launch", [LAUNCH, Configuration(tile_bytes=64 * 48, attend_warps=4)])
def test_self_attention_appends_a_cell_and_sees_all_before_it(
    dtype: torch.dtype, launch: Configuration
) -> None:
    cache = random_cache(6, 576, dtype)
    rows, position = torch.tensor([4, 0, 1, 5]), torch.tensor([0, SPLIT - 1, SPLIT, 570])
    qkv = normal(1, 4, 3 * WIDTH).to(dtype)
    twin = Cache(cache.keys.clone(), cache.values.clone())
    q, k, v = qkv.view(4, 3, HEADS, HEAD_DIM).unbind(1)
    twin.append(twin.cells_to_write(rows, position), k, v)
    out = attend(qkv, cache, rows, position.int(), launch)
    expected = attend_eagerly(q, twin, rows, position + 1)
    torch.testing.assert_close(out.double(), expected, rtol=CLOSE[dtype], atol=CLOSE[dtype])
    assert torch.equal(cache.keys, twin.keys)
    assert torch.equal(cache.values, twin.values)


def test_text_attention_sees_the_text_of_its_row_alone() -> None:
    cache, n_seen = random_cache(4, 192), torch.tensor([1, 64, 65, 130])
    cache.keys[0], cache.values[0] = 0, 0
    rows, query = torch.tensor([3, 0, 2, 1]), normal(2, 4, WIDTH)
    out = attend_text(query, cache, rows, n_seen, LAUNCH)
    expected = attend_eagerly(query, cache, rows, n_seen[rows])
    torch.testing.assert_close(out.double(), expected, rtol=2e-6, atol=2e-6)
    assert torch.equal(out[1], torch.zeros(WIDTH))


def test_a_row_has_the_same_bits_alone_in_any_seat_beside_longer_mates_in_a_larger_cache() -> None:
    position, qkv = 300, normal(3, 3 * WIDTH)
    query, n_text = normal(4, WIDTH), 70

    def bits(seats: list[int], mates: list[int], n_cells: int) -> tuple[Tensor, Tensor]:
        """Both attentions of a row at `seats[0]`, with mates of those lengths on other seats."""
        row = seats[0]
        cache = random_cache(1, n_cells)
        caches = Cache(normal(9, 4, HEADS, n_cells, HEAD_DIM), normal(8, 4, HEADS, n_cells, 12))
        caches.keys[row], caches.values[row] = cache.keys[0], cache.values[0]
        # What lies behind the row's end must not reach it, whatever it is.
        caches.keys[row, :, position:], caches.values[row, :, position:] = torch.nan, torch.inf
        texts = Cache(caches.keys.clone(), caches.values.clone())
        rows, at = torch.tensor(seats), torch.tensor([position, *mates]).int()
        every = torch.stack([qkv] + [normal(5 + i, 3 * WIDTH) for i in range(len(mates))])
        seen = torch.full([4], n_text)
        asked = torch.stack([query] + [normal(15 + i, WIDTH) for i in range(len(mates))])
        order = torch.tensor(sorted(range(len(seats)), key=seats.__getitem__))
        mine = int((order == 0).nonzero())
        return (
            attend(every[order], caches, rows[order], at[order], LAUNCH)[mine],
            attend_text(asked[order], texts, rows[order], seen, LAUNCH)[mine],
        )

    alone = bits([0], [], 320)
    assert all(part.isfinite().all() for part in alone)
    for seats, mates, n_cells in [
        ([2], [], 320),
        ([3, 0], [10], 320),
        ([1, 0, 2], [600, 299], 640),
        ([0, 3], [1020], 1024),
    ]:
        for part, expected in zip(bits(seats, mates, n_cells), alone, strict=True):
            assert torch.equal(part, expected), (seats, mates, n_cells)


def random_norm(width: int) -> NormTensors:
    return NormTensors(1 + 0.2 * normal(5, width), normal(6, width), 1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_branch_is_added_to_the_first_rows_and_all_rows_are_normalised(
    dtype: torch.dtype,
) -> None:
    x, branch, norm = 3 + normal(7, 3, 24), normal(8, 2, 24).to(dtype), random_norm(24)
    added = x.clone()
    added[:2] += branch
    normed = add_and_norm(x, branch, norm, LAUNCH)
    assert torch.equal(x, added)
    torch.testing.assert_close(normed.float(), norm(added), rtol=CLOSE[dtype], atol=CLOSE[dtype])
    assert normed.dtype == dtype
    alone = add_and_norm(added[2:].clone(), torch.empty(0, 24, dtype=dtype), norm, LAUNCH)
    assert torch.equal(alone[0], normed[2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gelu_is_the_exact_one(dtype: torch.dtype) -> None:
    x = 3 * normal(9, 5, 300).to(dtype)
    expected = F.gelu(x)
    assert gelu_(x, LAUNCH) is x
    torch.testing.assert_close(x, expected, rtol=CLOSE[dtype] / 2, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("n_rows", "n_out", "width"), [(1, 24, 24), (5, 70, 300), (33, 16, 512)])
def test_a_product_with_an_int8_matrix(
    dtype: torch.dtype, n_rows: int, n_out: int, width: int
) -> None:
    matrix, x = quantise(normal(1, n_out, width)), normal(2, n_rows, width).to(dtype)
    out = int8_product(x, matrix, LAUNCH)
    expected = x.double() @ matrix.dense(torch.float64).T
    assert out.dtype == dtype
    scale = float(expected.abs().max())
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=CLOSE[dtype] * scale)
    for row in (0, n_rows // 2, n_rows - 1):
        assert torch.equal(int8_product(x[row : row + 1].clone(), matrix, LAUNCH)[0], out[row])
        moved = int8_product(x.roll(3, 0).contiguous(), matrix, LAUNCH)
        assert torch.equal(moved[(row + 3) % n_rows], out[row])


def test_rows_start_from_their_tokens_and_positions() -> None:
    lm = toy_lm("cross", dim=32)
    weights = prepare(lm, "fp32", 128, packed=False)
    state = DecodeState.idle(weights, 4, 128, 20)
    state.sequence.random_(81, generator=torch.Generator().manual_seed(0))
    state.step[:] = torch.tensor([3, 0, 19, 7])
    state.n_prefix[:] = torch.tensor([0, 100, 5, 11])
    rows = torch.tensor([2, 0, 3])
    norm = random_norm(32)
    x, normed, position = embed_rows(weights, state, rows, norm, LAUNCH)
    tokens = state.sequence[rows, :, state.step[rows]]
    expected = weights.embed(tokens) + weights.positions[position.long()]
    torch.testing.assert_close(x, expected)
    torch.testing.assert_close(normed, norm(expected))
    assert position.tolist() == [24, 3, 18]


def random_sampling(rng: random.Random, card: int) -> SamplingParams:
    return SamplingParams(
        use_sampling=rng.random() < 0.85,
        temperature=rng.choice([0.7, 1.0, 1.3]),
        top_k=rng.choice([0, 1, 5, card // 8, card, card + 9]),
        cfg_coef=rng.choice([1.0, 3.0, 5.0]),
        cfg_coef_beta=rng.choice([None, None, 2.0]),
    )


def random_clips(rng: random.Random, state: DecodeState, card: int) -> list[SamplingParams]:
    """Give shuffled rows to clips of every guidance; some are left, perhaps with an old lead."""
    free, params = rng.sample(range(len(state.step)), len(state.step)), []
    while free:
        sampling = random_sampling(rng, card)
        n_rows = {"none": 1, "single": 2, "double": 3}[sampling.guidance]
        rows, free = free[:n_rows], free[n_rows:]
        if len(rows) < n_rows:
            break
        state.guidance.set(rows, sampling)
        state.sampling.set(rows[0], sampling)
        runs = rng.random() < 0.8
        state.running[rows] = int(runs)
        state.step[rows] = rng.randrange(4) if runs else 0
        state.sequence[rows, :, 1:] = UNKNOWN if runs else card
        if runs and rng.random() < 0.4:  # a codebook whose next token the prompt knows
            state.sequence[rows, rng.randrange(state.sequence.shape[1]), 1:] = rng.randrange(card)
        params.append(sampling)
    return params


@pytest.mark.parametrize("card", [80, 2048])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("seed", range(4))
def test_tokens_are_those_of_the_eager_functions(card: int, dtype: str, seed: int) -> None:
    """bf16 logits of a small spread are full of ties, at the k-th place too."""
    rng, n_rows = random.Random(seed), 6
    weights = prepare(toy_lm("cross", dim=32, card=card, delays=(0, 1)), "fp32", 64, packed=False)
    ours, twin = (DecodeState.idle(weights, n_rows, 64, 6) for _ in range(2))
    noise = torch.rand(ours.noise.shape, generator=torch.Generator().manual_seed(seed)).double()
    if seed == 0:
        noise.zero_()
    if seed == 1:
        noise.fill_(1 - 2**-32)
    state = rng.getstate()
    for at in (ours, twin):
        rng.setstate(state)
        params = random_clips(rng, at, card)
        at.noise.copy_(noise)
    logits = 3 * normal(seed, n_rows, 2, card)
    if dtype == "bf16":
        logits = logits.to(torch.bfloat16)
    shape = StepShape(64, 64, n_rows, n_rows, FilterShape.of(params))
    before = ours.sequence.clone()
    decide_tokens(ours, logits, n_rows, LAUNCH)
    decide(twin, shape, logits.float())
    assert torch.equal(ours.sequence, twin.sequence)
    assert not torch.equal(ours.sequence, before)
    assert not ours.failed.any()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_logit_that_is_not_finite_fails_its_clip_alone(bad: float) -> None:
    weights = prepare(toy_lm("cross", dim=32, delays=(0, 1)), "fp32", 64, packed=False)
    state = DecodeState.idle(weights, 5, 64, 6)
    for rows in ([0, 1], [3, 2]):
        state.guidance.set(rows, SamplingParams())
        state.sampling.set(rows[0], SamplingParams())
        state.running[rows] = 1
        state.sequence[rows, :, 1:] = UNKNOWN
    logits = normal(0, 5, 2, 80)
    logits[2, 1, 7] = bad
    decide_tokens(state, logits, 5, LAUNCH)
    assert state.failed.tolist() == [False, False, False, True, False]
    assert int(state.sequence[:, :, 1].min()) >= 0
    assert int(state.sequence.max()) <= 80
