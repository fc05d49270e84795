"""A clip never depends on its batch-mates: 50 random batches on a model of every kind.

Prompts of different lengths and none, melodies and styles and none, openings, several windows,
takes that differ in their seed alone, every kind of guidance, draw and filter, all side by side.
"""

import random
from dataclasses import replace

import pytest
import torch

from musicgen.conditioning.fuser import ClipConditions
from musicgen.config import SamplingParams
from musicgen.engine.engine import Engine, EngineOptions, Request
from musicgen.lm.delay_pattern import build
from musicgen.lm.guidance import guidance_rows
from musicgen.lm.model import LMModel
from tests.musicgen.toy import KINDS, Kind, in_windows, random_request, run, toy_kind

BATCHES = [10, pytest.param(50, marks=pytest.mark.long)]
WINDOW, STRIDE = 10, 6


def random_batch(rng: random.Random, lm: LMModel) -> list[Request]:
    """Three or four clips of one to three windows; perhaps one is a take of another."""
    requests = [random_request(rng, lm, str(i), 22) for i in range(3)]
    batch = [in_windows(request, rng, lm, WINDOW, STRIDE) for request in requests]
    if rng.random() < 0.5:
        batch.append(replace(batch[0], key="take", seed=rng.randrange(2**63)))
    return batch


@pytest.mark.parametrize("n_batches", BATCHES)
@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_the_same_bits_alone_and_in_company(kind: Kind, n_batches: int) -> None:
    lm, rng = toy_kind(kind, dim=32), random.Random(kind)
    engine = Engine(lm, EngineOptions(slots=3, max_frames=WINDOW))
    guidance, lengths = set(), set()
    for _ in range(n_batches):
        batch = random_batch(rng, lm)
        together = run(engine, batch)
        for request in batch:
            alone = run(engine, [request])[request.key]
            assert alone.codes is not None
            assert alone.codes.shape == (lm.cfg.n_codebooks, request.n_frames)
            assert torch.equal(together[request.key].codes, alone.codes)
            guidance.add(request.sampling.guidance)
            lengths.add(len(request.plan))
    assert guidance == {"none", "single", "double"}
    assert lengths == {1, 2, 3}


@torch.no_grad()
@pytest.mark.parametrize("n_batches", BATCHES)
@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_a_batch_of_one(kind: Kind, n_batches: int) -> None:
    lm, rng = toy_kind(kind, dim=32), random.Random(kind)
    card = lm.cfg.card
    for _ in range(n_batches):
        rows = [
            row
            for request in random_batch(rng, lm)
            for row in guidance_rows(request.conditions, lm.cfg.fuse, request.sampling.guidance)
        ]
        generator = torch.Generator().manual_seed(rng.randrange(2**31))
        shape = (len(rows), lm.cfg.n_codebooks, WINDOW)
        sequence = build(torch.randint(card, shape, generator=generator), lm.cfg.delays, card)
        together = lm(sequence, rows)
        for i, row in enumerate(rows):
            alone = lm(sequence[i : i + 1], [row])
            torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_engine_decides_as_the_reference_loop_on_every_kind(kind: Kind) -> None:
    lm, rng = toy_kind(kind, dim=32), random.Random(kind)
    requests = [random_request(rng, lm, str(i), WINDOW) for i in range(6)]
    ended = run(Engine(lm, EngineOptions(slots=3, max_frames=WINDOW)), requests)
    for r in requests:
        codes = lm.generate(
            r.conditions, r.n_frames, seed=r.seed, sampling=r.sampling, prompt_codes=r.prompt_codes
        )
        assert torch.equal(ended[r.key].codes, codes)


def test_what_is_nulled_is_exactly_what_the_guidance_names() -> None:
    """Double guidance: text and style, style alone, and zeros in the place of both."""
    text, style = torch.ones(2, 8), torch.full((3, 8), 2.0)
    clip = ClipConditions(text, style, torch.zeros(3, 8))
    expected = [torch.cat([style, text]), torch.cat([style, torch.zeros(2, 8)]), torch.zeros(5, 8)]
    for row, prefix in zip(guidance_rows(clip, "prepend", "double"), expected, strict=True):
        assert row.prefix is not None
        assert torch.equal(row.prefix, prefix)
    assert SamplingParams(cfg_coef_beta=5.0).guidance == "double"


@pytest.mark.parametrize(
    ("audio", "null", "message"),
    [
        (None, None, r"a style model needs null_audio \[up to 8, 32\]"),
        (torch.zeros(9, 32), torch.zeros(9, 32), r"null_audio \(9, 32\) must be \[up to 8"),
        (torch.zeros(3, 32), torch.zeros(2, 32), "audio has 3 frames, null_audio 2"),
        (torch.zeros(3, 31), torch.zeros(3, 32), r"audio \(3, 31\) must be"),
        (None, torch.zeros(0, 32), r"null_audio \(0, 32\) must be"),
    ],
)
def test_a_style_prefix_that_does_not_fit_is_refused(
    audio: torch.Tensor | None, null: torch.Tensor | None, message: str
) -> None:
    engine = Engine(toy_kind("style", dim=32), EngineOptions(slots=1, max_frames=5))
    conditions = ClipConditions(torch.zeros(1, 32), audio, null)
    with pytest.raises(ValueError, match=message):
        engine.submit(Request("x", conditions, 5, 0))
    fits = ClipConditions(torch.zeros(1, 32), None, torch.zeros(9, 32))
    wider = Engine(
        toy_kind("style", dim=32), EngineOptions(slots=1, max_frames=5, max_audio_frames=9)
    )
    assert run(wider, [Request("x", fits, 5, 0)])["x"].codes is not None
