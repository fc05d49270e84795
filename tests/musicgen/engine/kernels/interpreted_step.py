"""The fused step against the eager one: the same tokens on 50 random shapes, and in an engine."""

import copy
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from triton.runtime.interpreter import GridExecutor

from musicgen.config import FuseMethod, SamplingParams
from musicgen.engine.cuda_graphs import GraphedStep
from musicgen.engine.engine import Engine, EngineOptions
from musicgen.engine.kernels import fused_step
from musicgen.engine.kernels.attention import attend, attend_text
from musicgen.engine.kernels.fused_step import FusedStep
from musicgen.engine.kernels.product import int8_product
from musicgen.engine.kernels.sampling import decide_tokens
from musicgen.engine.kernels.select import make_decode
from musicgen.engine.kernels.table import SPLIT, Configuration
from musicgen.engine.kv_cache import Cache
from musicgen.engine.step import DecodeState, StepShape, decode_step, step_logits
from musicgen.engine.weights import StepWeights, prepare
from musicgen.lm.delay_pattern import UNKNOWN
from musicgen.lm.int8 import Int8Matrix, round_to_int8
from musicgen.lm.model import LMModel
from musicgen.lm.sampling import FilterShape
from tests.gpu import numerics
from tests.gpu.case import CheckFailed, Context
from tests.musicgen.engine.test_cuda_graphs import Captures
from tests.musicgen.engine.test_launches import Launches
from tests.musicgen.toy import KINDS, Kind, random_request, randomise, run, toy_kind

N_SHAPES = 50
N_STEPS, N_CELLS = 12, 640  # 640: two whole splits and a half
LAUNCH = Configuration(tile_bytes=SPLIT * 64, attend_warps=4)
PER_LAYER, BESIDE = 16, 40


def small(kind: Kind, *, dim: int = 16, n_layers: int = 1) -> LMModel:
    """A random model of that kind with heads of 16 columns."""
    cfg = toy_kind(kind, dim=dim).cfg
    delays = (0, 0, 1, 1) if kind == "stereo" else (0, 1)
    cfg = replace(cfg, n_layers=n_layers, delays=delays, n_codebooks=len(delays))
    return randomise(LMModel(cfg))


def random_state(
    rng: random.Random, weights: StepWeights, n_rows: int
) -> tuple[DecodeState, StepShape]:
    """Clips of every guidance in shuffled rows, at any step, over caches full of numbers."""
    state = DecodeState.idle(weights, n_rows, N_CELLS, N_STEPS)
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    state.noise.copy_(torch.rand(state.noise.shape, generator=generator, dtype=torch.float64))
    for cache in state.caches + state.cross_caches:
        cache.keys.normal_(generator=generator)
        cache.values.normal_(generator=generator)
    free, params, leads = rng.sample(range(n_rows), n_rows), [], []
    while free:
        n_clip = rng.choice([n for n in (1, 2, 2, 3) if n <= len(free)])
        rows, free = free[:n_clip], free[n_clip:]
        sampling = SamplingParams(
            use_sampling=rng.random() < 0.8,
            temperature=rng.choice([0.7, 1.0, 1.3]),
            top_k=rng.choice([0, 5, 50, 250]),
            top_p=rng.choice([0.0] * 9 + [0.8]),
            cfg_coef={1: 1.0, 2: 3.0, 3: 5.0}[n_clip],
            cfg_coef_beta=2.0 if n_clip == 3 else None,
        )
        state.guidance.set(rows, sampling)
        state.sampling.set(rows[0], sampling)
        state.running[rows] = 1
        state.step[rows] = step = rng.randrange(N_STEPS - 1)
        state.n_prefix[rows] = rng.choice(
            [0, 9, SPLIT - 1 - step, SPLIT - step, rng.randrange(600)]
        )
        state.sequence[rows] = torch.randint(81, state.sequence.shape[1:], generator=generator)
        state.sequence[rows, :, step + 1 :] = UNKNOWN
        state.n_cross[rows[0]] = rng.choice([1, 9, 64])
        params.append(sampling)
        leads.append(rows[0])
    n_leads = max(leads) + 1
    filters, double = FilterShape.of(params), any(p.guidance == "double" for p in params)
    return state, StepShape(N_CELLS, 64, n_leads, rng.choice([n_leads, n_rows]), filters, double)


def differences(seed: int, *, int8: bool = False) -> list[str]:
    """What the fused step leaves otherwise than the eager one, on the shape of that seed."""
    rng = random.Random(seed)
    lm = small(rng.choice(KINDS), dim=rng.choice([16, 16, 32]), n_layers=rng.choice([1, 1, 1, 2]))
    if int8:
        round_to_int8(lm)
    weights = prepare(lm, "fp32", N_CELLS, packed=False)
    ours, shape = random_state(rng, weights, rng.randint(1, 3))
    twin = copy.deepcopy(ours)
    fused = FusedStep(weights, ours, LAUNCH)
    logits = fused.logits(shape)
    fused.decide(shape, logits)
    expected = step_logits(weights, twin, shape, current_tokens(twin))
    decode_step(weights, twin, shape)
    same = {
        "logits": close(logits, expected),
        "tokens": torch.equal(ours.sequence, twin.sequence),
        "step": torch.equal(ours.step, twin.step),
        "failed": torch.equal(ours.failed, twin.failed),
        "keys": all(close(a.keys, b.keys) for a, b in zip(ours.caches, twin.caches, strict=True)),
        "values": all(
            close(a.values, b.values) for a, b in zip(ours.caches, twin.caches, strict=True)
        ),
    }
    return [name for name, is_same in same.items() if not is_same]


def current_tokens(state: DecodeState) -> Tensor:
    return state.sequence[torch.arange(len(state.step)), :, state.step]


def close(ours: Tensor, twin: Tensor) -> bool:
    return torch.allclose(ours, twin, rtol=2e-5, atol=2e-5)


@torch.no_grad()
@pytest.mark.parametrize(
    "seed", [*range(6), *(pytest.param(n, marks=pytest.mark.long) for n in range(6, N_SHAPES))]
)
def test_a_step_of_any_shape_gives_the_tokens_of_the_eager_step(seed: int) -> None:
    assert differences(seed) == []


@torch.no_grad()
@pytest.mark.parametrize(
    "seed", [*range(2), *(pytest.param(n, marks=pytest.mark.long) for n in range(2, 12))]
)
def test_a_step_over_int8_weights_gives_the_tokens_of_the_eager_step(seed: int) -> None:
    assert differences(seed, int8=True) == []


def scales_of_other_outputs(x: Tensor, matrix: Int8Matrix, launch: Any) -> Tensor:
    return int8_product(x, replace(matrix, scale=matrix.scale.roll(1)), launch)


@torch.no_grad()
def test_a_fault_in_the_int8_product_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused_step, "int8_product", scales_of_other_outputs)
    assert "logits" in differences(0, int8=True)


def one_cell_too_many(qkv: Tensor, cache: Any, rows: Tensor, position: Tensor, launch: Any) -> Any:
    return attend(qkv, cache, rows, position + 1, launch)


def only_the_last_split(
    qkv: Tensor, cache: Any, rows: Tensor, position: Tensor, launch: Any
) -> Any:
    seen = Cache(cache.keys.clone(), cache.values.clone())
    for row, at in zip(rows.tolist(), position.tolist(), strict=True):
        seen.keys[row, :, : at // SPLIT * SPLIT] = 0
    return attend(qkv, seen, rows, position, launch)


def one_text_cell_too_many(
    query: Tensor, cache: Any, rows: Tensor, n_seen: Tensor, launch: Any
) -> Any:
    return attend_text(query, cache, rows, (n_seen + 1).clamp(max=64), launch)


def tanh_gelu(x: Tensor, launch: Any) -> Tensor:
    return torch.nn.functional.gelu(x, approximate="tanh")


def next_noise(state: DecodeState, *rest: Any) -> None:
    decide_tokens(replace(state, noise=state.noise.roll(1, 2)), *rest)


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("attend", one_cell_too_many),
        ("attend", only_the_last_split),
        ("attend_text", one_text_cell_too_many),
        ("gelu_", tanh_gelu),
        ("decide_tokens", next_noise),
    ],
)
def test_a_fault_in_a_kernel_is_seen(
    name: str, fault: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused_step, name, fault)
    assert any(differences(seed) for seed in range(6))


@pytest.mark.long
def test_gpu_check_compares_the_kernels_with_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numerics, "KINDS", ("text", "melody"))
    monkeypatch.setattr(numerics, "N_STEPS", 9)

    found = numerics.step_against_float64(Context(torch.device("cpu"), tiny=True))

    assert found.keys() == {f"{p} {k}" for p in ("eager", "triton") for k in ("text", "melody")}
    assert 0 < max(found.values()) < numerics.EXACT
    monkeypatch.setattr(fused_step, "attend", one_cell_too_many)
    with pytest.raises(CheckFailed, match=r"fp32 logits are .* off"):
        numerics.step_against_float64(Context(torch.device("cpu"), tiny=True))


@torch.no_grad()
def test_launches_depend_on_nothing_but_top_p() -> None:
    rng = random.Random(5)
    weights = prepare(small("text"), "fp32", N_CELLS, packed=False)
    state, shape = random_state(rng, weights, 5)
    step = FusedStep(weights, state, LAUNCH)
    plain = [SamplingParams(), SamplingParams(top_k=7), SamplingParams(use_sampling=False)]
    shapes = {
        step.static_part(replace(shape, n_keys=n, n_rows=n_rows, filters=FilterShape.of([params])))
        for n, n_rows, params in zip((64, 128, 640), (None, 3, 4), plain, strict=True)
    }
    assert len(shapes) == 1
    nucleus = FilterShape.of([SamplingParams(top_p=0.9)])
    assert step.static_part(replace(shape, filters=nucleus)).filters == nucleus


def test_an_engine_gives_the_tokens_of_the_eager_step_from_one_graph() -> None:
    lm, captures = small("text"), Captures()
    codes = []
    for kernels in ("eager", "triton"):
        engine = Engine(lm, EngineOptions(slots=2, max_frames=3, packed=False, kernels=kernels))
        if kernels == "triton":
            decode = make_decode(engine.weights, engine.state, kernels)
            engine.run_step = GraphedStep(engine.weights, engine.state, captures, decode)
            assert engine.run_step.kernels == "triton"
        rng = random.Random(2)
        requests = [random_request(rng, lm, str(i), 3) for i in range(4)]
        requests = [
            replace(r, sampling=replace(r.sampling, top_p=0.0, use_sampling=i != 1))
            for i, r in enumerate(requests)
        ]
        ended = run(engine, requests)
        codes.append([ended[str(i)].codes.tolist() for i in range(4)])
    assert codes[0] == codes[1]
    assert captures.count == 1


@torch.no_grad()
@pytest.mark.parametrize("fuse", ["cross", "prepend"])
def test_a_step_launches_few_kernels(fuse: FuseMethod, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU would run: our kernels, which are counted and left out, and torch's operators."""
    names: list[str] = []
    monkeypatch.setattr(GridExecutor, "__call__", lambda self, *_, **__: names.append(str(self.fn)))
    counts = []
    for n_layers in (2, 4):
        weights = prepare(
            small("text" if fuse == "cross" else "melody", n_layers=n_layers),
            "bf16",
            64,
            packed=False,
        )
        state = DecodeState.idle(weights, 4, 64, 40)
        step = FusedStep(weights, state, LAUNCH)
        names.clear()
        with Launches() as launched:
            step(StepShape(64, 64, 4, 4, FilterShape.of([SamplingParams()])))
        torch_names = [name for name in launched.names if "empty" not in name]
        assert {name.split(".")[1] for name in torch_names} == {"mm", "add_"}
        counts.append(len(names) + len(torch_names))
    per_layer = (counts[1] - counts[0]) / 2
    beside = counts[0] - 2 * per_layer
    assert (per_layer, beside) == ((13 if fuse == "cross" else 9), 4)
    assert per_layer <= PER_LAYER
    assert beside <= BESIDE
