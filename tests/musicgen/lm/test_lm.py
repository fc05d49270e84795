"""AudioCraft's numbers on a toy text model: by the reference forward pass and loop, by the engine.

`forward` and `generate` stand for both, so that a golden number that only the slow path reaches
can't go unnoticed.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from musicgen.conditioning.fuser import ClipConditions, RowCondition
from musicgen.config import LMConfig, SamplingParams
from musicgen.lm.delay_pattern import build
from musicgen.lm.guidance import guidance_rows
from musicgen.lm.model import LMModel
from tests.musicgen.toy import GOLDEN, engine_codes, engine_logits, toy_lm

GOLD = torch.load(GOLDEN / "lm_text.pt", weights_only=True)
BATCHED = torch.load(GOLDEN / "lm_batched.pt", weights_only=True)
CASES = GOLD["cases"]
GREEDY = SamplingParams(use_sampling=False)


def golden_lm() -> LMModel:
    """AudioCraft's toy model: its state dict loads by name, without exceptions."""
    cfg = LMConfig(
        dim=64,
        n_heads=4,
        n_layers=3,
        ffn_dim=256,
        n_codebooks=4,
        card=48,
        delays=(0, 1, 2, 3),
        text_dim=32,
        fuse="cross",
    )
    lm = LMModel(cfg).eval()
    lm.load_state_dict(GOLD["state_dict"])
    return lm


@pytest.fixture(params=["reference", "engine"])
def forward(request: pytest.FixtureRequest) -> Callable[..., Tensor]:
    """(model, sequence [B, K, S], rows) to logits [B, K, S, card]."""
    return {"reference": LMModel.__call__, "engine": engine_logits}[request.param]


@pytest.fixture(params=["reference", "engine"])
def generate(request: pytest.FixtureRequest) -> Callable[..., Tensor]:
    """(model, conditions, frames, ...) to codes [K, T]."""
    return {"reference": LMModel.generate, "engine": engine_codes}[request.param]


@pytest.mark.parametrize("name", CASES)
def test_logits_are_audiocrafts(name: str, forward: Callable[..., Tensor]) -> None:
    case, lm = CASES[name], golden_lm()
    rows = [RowCondition(cross=case["embeds"]), RowCondition()]
    sequence = case["sequence"].expand(2, -1, -1)
    torch.testing.assert_close(forward(lm, sequence, rows), case["logits"], rtol=0, atol=1e-5)
    logits64 = lm.double()(sequence, rows)
    torch.testing.assert_close(logits64, case["logits64"], rtol=0, atol=1e-10)


def test_a_mixed_batch_gives_each_row_its_numbers_alone(forward: Callable[..., Tensor]) -> None:
    lm = golden_lm().double()
    rows = [RowCondition(cross=case["embeds"]) for case in CASES.values()]
    rows.insert(1, RowCondition())
    sequence = torch.cat([case["sequence"] for case in CASES.values()])  # [3, K, S]
    sequence = sequence[[0, 0, 1, 2]]
    logits = lm(sequence, rows)
    expected = [CASES["b1_short"]["logits64"][0], CASES["b1_short"]["logits64"][1]]
    expected += [CASES["b1_long"]["logits64"][0], CASES["b1_none"]["logits64"][0]]
    torch.testing.assert_close(logits, torch.stack(expected), rtol=0, atol=1e-10)
    single = forward(lm.float(), sequence, rows)
    torch.testing.assert_close(single.double(), logits, rtol=0, atol=1e-5)


@torch.no_grad()
def test_prefixes_of_different_lengths_never_meet() -> None:
    lm = toy_lm("prepend").double()
    generator = torch.Generator().manual_seed(4)
    clips = [
        ClipConditions(
            torch.randn(n_text, 64, generator=generator),
            torch.randn(7, 64, generator=generator),
            torch.zeros(7, 64),
        )
        for n_text in (1, 12, 5)
    ]
    rows = [row for clip in clips for row in guidance_rows(clip, "prepend", "double")]
    sequence = torch.randint(81, (len(rows), 4, 10), generator=generator)
    together = lm(sequence, rows)
    for row, condition in enumerate(rows):
        alone = lm(sequence[row : row + 1], [condition])
        torch.testing.assert_close(together[row : row + 1], alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_greedy_tokens_are_audiocrafts(name: str, generate: Callable[..., Tensor]) -> None:
    case, lm = CASES[name], golden_lm()
    conditions = ClipConditions(case["embeds"])
    assert torch.equal(generate(lm, conditions, 16, sampling=GREEDY), case["greedy"][0])
    if "continuation_prompt" in case:
        prompt = case["continuation_prompt"][0]
        codes = generate(lm, conditions, 16, sampling=GREEDY, prompt_codes=prompt)
        assert torch.equal(codes, case["continuation_greedy"][0])


def test_a_batch_that_sees_its_padding_has_audiocrafts_logits(
    forward: Callable[..., Tensor],
) -> None:
    """AudioCraft lets rows see the padding of their mates' texts; ours only where it is fed."""
    mixed, lm = BATCHED["mixed"], golden_lm()
    rows = [RowCondition(cross=embeds) for embeds in mixed["embeds"]]
    sequence = mixed["sequence"].repeat(2, 1, 1)  # conditional, then null
    torch.testing.assert_close(forward(lm, sequence, rows), mixed["logits"], rtol=0, atol=1e-5)
    logits64 = lm.double()(sequence, rows)
    torch.testing.assert_close(logits64, mixed["logits64"], rtol=0, atol=1e-10)


def test_a_batch_that_sees_its_padding_has_audiocrafts_tokens(
    generate: Callable[..., Tensor],
) -> None:
    mixed, lm = BATCHED["mixed"], golden_lm()
    for row in range(3):
        seen = ClipConditions(mixed["embeds"][row])
        assert torch.equal(generate(lm, seen, 16, sampling=GREEDY), mixed["greedy"][row])
        prompt = mixed["continuation_prompt"][row]
        codes = generate(lm, seen, 16, sampling=GREEDY, prompt_codes=prompt)
        assert torch.equal(codes, mixed["continuation_greedy"][row])


def test_the_coefficient_that_is_passed_is_the_one_that_counts(
    generate: Callable[..., Tensor],
) -> None:
    """AudioCraft's two-step guidance takes the model's own instead: passed 3, it ran with 2.

    Ours knows no second way to compute guidance; `two_step_cfg` gives the same numbers.
    """
    lm, greedy2 = golden_lm(), SamplingParams(use_sampling=False, cfg_coef=2.0)
    buggy, joint = BATCHED["two_step_greedy_passed3_lm2"], BATCHED["joint_greedy_coef2"]
    for row in range(2):
        seen = ClipConditions(BATCHED["mixed"]["embeds"][row])
        assert not torch.equal(generate(lm, seen, 16, sampling=GREEDY), buggy[row])
        assert torch.equal(generate(lm, seen, 16, sampling=greedy2), joint[row])


def test_every_parameter_that_forward_uses_gets_a_gradient() -> None:
    lm = golden_lm()
    case = CASES["b1_long"]
    lm(case["sequence"], [RowCondition(cross=case["embeds"])]).square().mean().backward()
    missing = [name for name, p in lm.named_parameters() if p.grad is None]
    assert all(name.startswith("condition_provider.") for name in missing)
    assert all(p.grad is None or p.grad.isfinite().all() for p in lm.parameters())


def test_the_loss_is_the_cross_entropy_of_what_the_pattern_reaches() -> None:
    lm, generator = toy_lm("prepend"), torch.Generator().manual_seed(3)
    codes = torch.randint(80, (2, 4, 9), generator=generator)  # [B, K, T]
    text = torch.randn(3, 64, generator=generator)
    rows = [RowCondition(prefix=text), RowCondition(prefix=text[:1])]
    loss, per_codebook = lm.compute_loss(codes, rows)
    logits = lm(build(codes, lm.cfg.delays, 80), rows).log_softmax(-1)
    for k, delay in enumerate(lm.cfg.delays):
        by_hand = [
            -logits[b, k, t + delay, codes[b, k, t]] for b in range(2) for t in range(9 - delay)
        ]
        torch.testing.assert_close(per_codebook[k], torch.stack(by_hand).mean())
    torch.testing.assert_close(loss, per_codebook.mean())
    loss.backward()
    assert all(p.grad.abs().sum() > 0 for n, p in lm.named_parameters() if "provider" not in n)


def test_padding_does_not_count_in_the_loss() -> None:
    lm, generator = toy_lm("cross"), torch.Generator().manual_seed(3)
    codes = torch.randint(80, (2, 4, 9), generator=generator)
    rows = [RowCondition(), RowCondition()]
    alone = lm.compute_loss(codes[:1], rows[:1])
    mask = torch.tensor([True, False])[:, None, None].expand_as(codes)
    masked = lm.compute_loss(codes, rows, mask)
    torch.testing.assert_close(masked.per_codebook, alone.per_codebook)
    nothing = lm.compute_loss(codes, rows, torch.zeros_like(mask))
    assert nothing.loss == 0
    for wrong in (codes[0], codes[:, :3], codes[..., :3]):
        with pytest.raises(ValueError, match=r"must be \[B, 4, T > 3\]"):
            lm.compute_loss(wrong, rows)
