"""Random workloads, each of whose clips must have the tokens that it has alone."""

import random
from collections.abc import Callable
from dataclasses import replace

import torch

from musicgen.engine.engine import Engine, EngineOptions, EngineOutput, Request
from tests.musicgen.toy import KINDS, in_windows, random_request, toy_kind

WINDOW, STRIDE = 70, 45  # more than one block of 64 keys


def run_staggered(
    engine: Engine, requests: list[Request], rng: random.Random
) -> dict[str, EngineOutput]:
    """Submit at any moment, also when no row is free, or when all are."""
    waiting, ended = list(requests), {}
    pace = rng.choice([0.03, 0.1, 0.5])
    while waiting or engine.n_active or engine.n_waiting:
        while waiting and rng.random() < pace:
            engine.submit(waiting.pop(0))
        ended |= {finished.key: finished for finished in engine.step()}
    return ended


def check_workload(
    requests: list[Request], make_engine: Callable[..., Engine], rng: random.Random
) -> None:
    """Together, in another order beside larger caches, and each alone."""
    together = run_staggered(make_engine(), requests, rng)
    shuffled = rng.sample(requests, len(requests))
    again = run_staggered(make_engine(larger=True, longest_first=True), shuffled, rng)
    lonely = make_engine()
    for request in requests:
        alone = run_staggered(lonely, [request], random.Random(0))[request.key].codes
        assert alone is not None
        assert alone.shape[-1] == request.n_frames
        if request.prompt_codes is not None:
            assert torch.equal(alone[:, : request.n_prompt], request.prompt_codes)
        for company in (together, again):
            assert torch.equal(company[request.key].codes, alone), (request.key, request.sampling)


def check_toy_workload(number: int, dtype: str, device: torch.device | str = "cpu") -> None:
    """The workload of that number, for one of the kinds of model."""
    rng = random.Random(f"{number} {dtype}")
    kind = KINDS[number % len(KINDS)]
    lm, slots = toy_kind(kind, dim=32).to(device), rng.choice([2, 3, 5])
    requests = [
        in_windows(
            random_request(rng, lm, str(i), rng.choice([6, 20, 90])), rng, lm, WINDOW, STRIDE
        )
        for i in range(4)
    ]
    requests.append(replace(requests[0], key="take", seed=rng.randrange(2**63)))

    def make_engine(*, larger: bool = False, longest_first: bool = False) -> Engine:
        frames = 200 if larger else WINDOW
        return Engine(
            lm,
            EngineOptions(slots=slots, max_frames=frames, dtype=dtype, longest_first=longest_first),
        )

    check_workload(requests, make_engine, rng)
