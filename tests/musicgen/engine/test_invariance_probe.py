"""Whether the bits of a clip depend on the slots is what the machine answers, not what is hoped."""

import random
from dataclasses import replace

import torch
from torch import Tensor

from musicgen.engine.engine import Engine, EngineOptions
from musicgen.engine.invariance import bits_depend_on, differing_slots
from musicgen.engine.weights import prepare
from tests.musicgen.toy import random_request, run, toy_kind, toy_lm


def test_kernels_that_depend_on_the_number_of_rows_are_found_at_their_slots() -> None:
    weights = prepare(toy_lm("cross", dim=32), "fp32", 128, packed=False)
    heads = weights.heads

    def by_rows(x: Tensor) -> Tensor:
        return heads(x) + (1e-3 if len(x) == 6 else 0.0)

    planted = replace(weights, heads=by_rows)
    assert 3 in differing_slots(planted, 5)
    assert bits_depend_on(planted, 5) == "slots"
    every_row = replace(weights, heads=lambda x: torch.stack([heads(row[None])[0] for row in x]))
    assert set(differing_slots(every_row, 5)) <= set(differing_slots(weights, 5))


def test_where_the_bits_depend_on_nothing_clips_repeat_at_any_number_of_slots() -> None:
    for kind in ("text", "style"):
        lm, rng = toy_kind(kind, dim=32), random.Random(5)
        requests = [random_request(rng, lm, str(i), 12) for i in range(5)]
        weights = prepare(lm, "fp32", 512)
        codes = []
        for slots in (2, 5):
            ended = run(Engine(lm, EngineOptions(slots, 12), weights), requests)
            codes.append({key: clip.codes for key, clip in ended.items()})
        if bits_depend_on(weights, 5) == "nothing":
            assert all(torch.equal(codes[0][key], codes[1][key]) for key in codes[0])
