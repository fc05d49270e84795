"""The reference forward pass and loop against AudioCraft's numbers on a toy text model."""

import pytest
import torch

from musicgen.conditioning.fuser import ClipConditions, RowCondition
from musicgen.config import LMConfig, SamplingParams
from musicgen.guidance import guidance_rows
from musicgen.lm import LMModel
from tests.musicgen.toy import GOLDEN, toy_lm

GOLD = torch.load(GOLDEN / "lm_text.pt", weights_only=True)
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


@pytest.mark.parametrize("name", CASES)
def test_logits_are_audiocrafts(name: str) -> None:
    case, lm = CASES[name], golden_lm()
    rows = [RowCondition(cross=case["embeds"]), RowCondition()]
    sequence = case["sequence"].expand(2, -1, -1)
    torch.testing.assert_close(lm(sequence, rows), case["logits"], rtol=0, atol=1e-5)
    logits64 = lm.double()(sequence, rows)
    torch.testing.assert_close(logits64, case["logits64"], rtol=0, atol=1e-10)


def test_a_mixed_batch_gives_each_row_its_numbers_alone() -> None:
    lm = golden_lm().double()
    rows = [RowCondition(cross=case["embeds"]) for case in CASES.values()]
    rows.insert(1, RowCondition())
    sequence = torch.cat([case["sequence"] for case in CASES.values()])  # [3, K, S]
    sequence = sequence[[0, 0, 1, 2]]
    logits = lm(sequence, rows)
    expected = [CASES["b1_short"]["logits64"][0], CASES["b1_short"]["logits64"][1]]
    expected += [CASES["b1_long"]["logits64"][0], CASES["b1_none"]["logits64"][0]]
    torch.testing.assert_close(logits, torch.stack(expected), rtol=0, atol=1e-10)
    torch.testing.assert_close(lm.float()(sequence, rows).double(), logits, rtol=0, atol=1e-5)


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
def test_the_reference_loop_decides_as_audiocraft_does(name: str) -> None:
    case, lm = CASES[name], golden_lm()
    conditions = ClipConditions(case["embeds"])
    assert torch.equal(lm.generate(conditions, 16, sampling=GREEDY), case["greedy"][0])
    if "continuation_prompt" in case:
        prompt = case["continuation_prompt"][0]
        codes = lm.generate(conditions, 16, sampling=GREEDY, prompt_codes=prompt)
        assert torch.equal(codes, case["continuation_greedy"][0])


def test_every_parameter_that_forward_uses_gets_a_gradient() -> None:
    lm = golden_lm()
    case = CASES["b1_long"]
    lm(case["sequence"], [RowCondition(cross=case["embeds"])]).square().mean().backward()
    missing = [name for name, p in lm.named_parameters() if p.grad is None]
    assert all(name.startswith("condition_provider.") for name in missing)
    assert all(p.grad is None or p.grad.isfinite().all() for p in lm.parameters())
