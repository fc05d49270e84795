"""The engine's step against the reference forward pass: the same logits, one step at a time."""

from dataclasses import replace

import pytest
import torch

from musicgen.conditioning.fuser import ClipConditions
from musicgen.config import FuseMethod
from musicgen.engine.prefill import fill_cross, fill_prefix
from musicgen.engine.step import DecodeState, StepShape, round_up, step_logits
from musicgen.engine.weights import count_free_rows, prepare
from musicgen.lm.guidance import guidance_rows
from musicgen.lm.model import LMModel
from musicgen.lm.sampling import FilterShape
from tests.musicgen.toy import toy_lm

N_ROWS = 6
ROWS = [4, 1, 3]  # a clip's rows need not be neighbours
N_STEPS = 70  # more than one block of keys
SEQUENCE = torch.randint(81, (4, N_STEPS), generator=torch.Generator().manual_seed(0))  # [K, S]


def clip(lm: LMModel, n_text: int) -> ClipConditions:
    generator = torch.Generator().manual_seed(n_text)
    text = torch.randn(n_text, 64, generator=generator)
    if lm.cfg.chroma is None:
        return ClipConditions(text)
    return ClipConditions(text, torch.randn(7, 64, generator=generator), torch.ones(7, 64))


@torch.no_grad()
def stepwise_logits(
    lm: LMModel,
    conditions: ClipConditions,
    n_prompt: int = 0,
    *,
    rows: list[int] = ROWS,
    extra_keys: int = 0,
    crowded: bool = False,
    dtype: str = "fp32",
    packed: bool | None = None,
) -> torch.Tensor:
    """Teacher-forced logits [rows, K, S - n_prompt, card] out of single steps."""
    parts = guidance_rows(conditions, lm.cfg.fuse, "double")
    n_prefix = 0 if parts[0].prefix is None else len(parts[0].prefix)
    weights = prepare(lm, dtype, 512, packed=packed)
    state = DecodeState.idle(weights, N_ROWS, 512, N_STEPS + 1)
    if crowded:
        crowd(state)
    state.sequence[rows, :, :N_STEPS] = SEQUENCE
    state.step[rows] = n_prompt
    state.n_prefix[rows] = n_prefix
    fill_cross(weights, state, rows, parts)
    fill_prefix(weights, state, rows, parts, SEQUENCE[:, :n_prompt])
    logits = []
    for step in range(n_prompt, N_STEPS):
        shape = StepShape(
            n_keys=round_up(n_prefix + step + 1) + extra_keys,
            n_cross_keys=round_up(len(conditions.text)),
            n_leads=N_ROWS,
            n_texts=N_ROWS,
            filters=FilterShape(),
        )
        tokens = state.sequence[torch.arange(N_ROWS), :, state.step]  # [R, K]
        logits.append(step_logits(weights, state, shape, tokens)[rows])
        state.step[rows] += 1
    return torch.stack(logits, dim=2)


def crowd(state: DecodeState) -> None:
    """Fill every row with other tokens, at another step, over a cache full of other clips."""
    generator = torch.Generator().manual_seed(9)
    state.sequence.random_(81, generator=generator)
    state.step.random_(N_STEPS, generator=generator)
    for cache in state.caches + state.cross_caches:
        cache.keys.normal_(std=30, generator=generator)
        cache.values.normal_(std=30, generator=generator)


@pytest.mark.parametrize("fuse", ["cross", "prepend"])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(("n_text", "n_prompt"), [(1, 0), (9, 5), (70, 66)])
@torch.no_grad()
def test_fp32_steps_give_the_reference_logits(
    fuse: FuseMethod, packed: bool, n_text: int, n_prompt: int
) -> None:
    if packed and not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    lm = toy_lm(fuse)
    conditions = clip(lm, n_text)
    rows = guidance_rows(conditions, fuse, "double")
    expected = lm(SEQUENCE.expand(3, -1, -1), rows)[:, :, n_prompt:]
    logits = stepwise_logits(lm, conditions, n_prompt, packed=packed)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("fuse", ["cross", "prepend"])
@torch.no_grad()
def test_bf16_steps_are_autocast_with_weights_converted_once(fuse: FuseMethod) -> None:
    lm = toy_lm(fuse)
    conditions = clip(lm, 9)
    rows = guidance_rows(conditions, fuse, "double")
    exact = lm(SEQUENCE.expand(3, -1, -1), rows)
    with torch.autocast("cpu", torch.bfloat16):
        autocast = lm(SEQUENCE.expand(3, -1, -1), rows).float()
    logits = stepwise_logits(lm, conditions, dtype="bf16")
    off = (logits - exact).square().mean().sqrt() / exact.std()
    reference_off = (autocast - exact).square().mean().sqrt() / exact.std()
    assert off < 1.5 * reference_off
    assert off < 0.03


@pytest.mark.parametrize("fuse", ["cross", "prepend"])
def test_weights_held_in_bf16_give_what_autocast_makes_of_fp32_weights(fuse: FuseMethod) -> None:
    lm = toy_lm(fuse)
    conditions = clip(lm, 9)
    with torch.autocast("cpu", torch.bfloat16):
        autocast = stepwise_logits(lm, conditions, packed=False)
    held = stepwise_logits(lm, conditions, dtype="bf16", packed=False)
    exact = stepwise_logits(lm, conditions, packed=False)
    assert not torch.equal(autocast, exact)
    rms = exact.std()
    assert (held - autocast).square().mean().sqrt() / rms < 0.03
    assert (held - exact).square().mean().sqrt() < 1.2 * (autocast - exact).square().mean().sqrt()


@pytest.mark.parametrize("fuse", ["cross", "prepend"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_logits_are_the_same_bits_in_any_rows_beside_any_others(
    fuse: FuseMethod, dtype: str
) -> None:
    lm = toy_lm(fuse)
    conditions = clip(lm, 9)
    alone = stepwise_logits(lm, conditions, 5, dtype=dtype)
    for rows, extra_keys in [([0, 1, 2], 0), ([5, 3, 4], 64), ([2, 5, 0], 384)]:
        among = stepwise_logits(
            lm, conditions, 5, rows=rows, extra_keys=extra_keys, crowded=True, dtype=dtype
        )
        assert torch.equal(among, alone)


@pytest.mark.parametrize("fuse", ["cross", "prepend"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@torch.no_grad()
def test_rows_that_are_left_out_change_nothing(fuse: FuseMethod, dtype: str) -> None:
    weights = prepare(toy_lm(fuse), dtype, 512)
    if weights.free_rows < N_ROWS:
        pytest.skip("this machine's linears depend on the number of rows")
    tokens = torch.randint(81, (N_ROWS, 4), generator=torch.Generator().manual_seed(2))
    logits = []
    for picked in (None, [4, 1, 5], [1, 4]):
        state = DecodeState.idle(weights, N_ROWS, 512, N_STEPS + 1)
        crowd(state)
        state.n_cross[:4] = 9
        shape = StepShape(128, 64, N_ROWS, N_ROWS, FilterShape())
        if picked is not None:
            state.rows[: len(picked)] = torch.tensor(picked)
            shape = replace(shape, n_rows=len(picked), n_texts=2)
        logits.append(step_logits(weights, state, shape, tokens))
    whole, three, two = logits
    assert torch.equal(three[[4, 1]], whole[[4, 1]])
    if fuse == "prepend":
        assert torch.equal(three[5], whole[5])
    assert torch.equal(two[[1, 4]], whole[[1, 4]])
    assert not two[[0, 2, 3, 5]].any()


def test_a_machine_whose_kernels_depend_on_the_number_of_rows_is_found_out() -> None:
    def by_rows(x: torch.Tensor) -> torch.Tensor:
        return x.sum(-1) if len(x) == 7 else x.flip(-1).cumsum(-1)[:, -1]

    assert count_free_rows([(lambda x: 2 * x, 64)]) == 64
    assert count_free_rows([(lambda x: 2 * x, 64), (by_rows, 64)]) == 0


@torch.no_grad()
def test_a_null_row_has_exactly_no_cross_attention() -> None:
    lm = toy_lm("cross")
    logits = stepwise_logits(lm, clip(lm, 9))
    for layer in lm.transformer.layers:
        torch.nn.init.zeros_(layer.cross_attention.out_proj.weight)
    without = stepwise_logits(lm, clip(lm, 9))
    assert torch.equal(logits[1:], without[1:])
    assert not torch.equal(logits[0], without[0])
