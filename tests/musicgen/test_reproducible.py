"""Random workloads: every clip has the tokens that it has alone, whatever runs beside it and when.

Mixed lengths, guidance, parameters, prompts, melodies, styles and windows, submitted at any moment,
in two orders and beside caches of two sizes; once with one thread and once with two. `make test`
runs 12 workloads per number format with two threads, `make test-long` 200 with either.
"""

import random
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from musicgen.config import LMConfig
from musicgen.engine.engine import Engine, EngineOptions
from musicgen.engine.weights import prepare
from musicgen.lm.model import LMModel
from tests.musicgen.toy import KINDS, in_windows, random_request, toy_kind
from tests.musicgen.workloads import STRIDE, WINDOW, check_toy_workload, check_workload

N_WORKLOADS, N_LONG = 7, 200
DTYPES = ["fp32", "bf16"]


@pytest.fixture(params=[pytest.param(1, marks=pytest.mark.long), 2], ids=["1 thread", "2 threads"])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_random_workloads(dtype: str, threads: int) -> None:
    for number in range(N_WORKLOADS):
        check_toy_workload(number, dtype)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("dtype", DTYPES)
def test_two_hundred_random_workloads(dtype: str, threads: int) -> None:
    for number in range(N_LONG):
        check_toy_workload(number, dtype)


@pytest.fixture(scope="module")
def wide() -> LMModel:
    """musicgen-small's width, heads and codebooks in two layers."""
    cfg = LMConfig(
        dim=1024,
        n_heads=16,
        n_layers=2,
        ffn_dim=4096,
        n_codebooks=4,
        card=2048,
        delays=(0, 1, 2, 3),
        text_dim=16,
        fuse="cross",
    )
    lm, generator = LMModel(cfg), torch.Generator().manual_seed(3)
    for parameter in lm.parameters():
        nn.init.normal_(parameter, std=0.03, generator=generator)
    for module in lm.modules():
        if isinstance(module, nn.LayerNorm):
            nn.init.normal_(module.weight, mean=1.0, std=0.2, generator=generator)
    return lm.eval()


@pytest.mark.long
@pytest.mark.parametrize("dtype", DTYPES)
def test_workloads_at_the_width_of_a_real_model(wide: LMModel, dtype: str, threads: int) -> None:
    weights = prepare(wide, dtype, 128)
    for number, slots in enumerate([1, 3, 8]):  # R = 2, 6, 16
        rng = random.Random(number)
        requests = [random_request(rng, wide, str(i), 32) for i in range(3)]
        requests = [r for r in requests if r.n_rows <= 2 * slots]

        def make_engine(
            *, larger: bool = False, longest_first: bool = False, slots: int = slots
        ) -> Engine:
            return Engine(
                wide,
                EngineOptions(
                    slots=slots,
                    max_frames=100 if larger else 32,
                    dtype=dtype,
                    longest_first=longest_first,
                ),
                weights,
            )

        check_workload(requests, make_engine, rng)


def test_the_workloads_hold_everything_that_a_clip_can_have() -> None:
    """Else the tests above would prove less than they say."""
    seen: set[object] = set()
    for number in range(N_WORKLOADS):
        rng = random.Random(f"{number} fp32")
        lm = toy_kind(KINDS[number % len(KINDS)], dim=32)
        rng.choice([2, 3, 5])
        for i in range(4):
            drawn = random_request(rng, lm, str(i), rng.choice([6, 20, 90]))
            request = in_windows(drawn, rng, lm, WINDOW, STRIDE)
            sampling = request.sampling
            seen |= {
                sampling.guidance,
                f"{len(request.plan)} windows",
                ("sampled", sampling.use_sampling),
                ("continues", request.prompt_codes is not None),
                ("hears", request.conditions.audio is not None),
                ("top_p", sampling.top_p > 0),
            }
    assert {"none", "single", "double", "1 windows", "2 windows"} <= seen
    for name in ("sampled", "continues", "hears", "top_p"):
        assert {(name, True), (name, False)} <= seen
