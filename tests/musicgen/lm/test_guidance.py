"""Rows per clip, their prefixes, and how their logits are mixed."""

import torch

from musicgen.conditioning.fuser import ClipConditions
from musicgen.config import SamplingParams
from musicgen.lm.guidance import RowGuidance, guidance_rows, mix

TEXT, MELODY, NO_MELODY = torch.full((2, 8), 1.0), torch.full((3, 8), 2.0), torch.full((3, 8), 3.0)
NO_TEXT = torch.zeros(2, 8)


def test_a_text_model_nulls_rows_by_leaving_cross_attention_out() -> None:
    rows = guidance_rows(ClipConditions(TEXT), "cross", "double")
    assert rows[0].cross is TEXT
    assert [row.cross for row in rows[1:]] == [None, None]
    assert all(row.prefix is None for row in rows)


def test_a_melody_model_puts_melody_before_text_and_keeps_the_length_of_null_rows() -> None:
    rows = guidance_rows(ClipConditions(TEXT, MELODY, NO_MELODY), "prepend", "double")
    expected = [(MELODY, TEXT), (MELODY, NO_TEXT), (NO_MELODY, NO_TEXT)]
    for row, parts in zip(rows, expected, strict=True):
        assert row.cross is None
        assert row.prefix is not None
        assert torch.equal(row.prefix, torch.cat(parts))


def test_a_clip_without_melody_has_the_null_melody_in_every_row() -> None:
    full, null = guidance_rows(ClipConditions(TEXT, None, NO_MELODY), "prepend", "single")
    assert full.prefix is not None
    assert null.prefix is not None
    assert torch.equal(full.prefix, torch.cat([NO_MELODY, TEXT]))
    assert torch.equal(null.prefix, torch.cat([NO_MELODY, NO_TEXT]))


def test_three_kinds_mix_side_by_side() -> None:
    logits = torch.randn(7, 4, 48, generator=torch.Generator().manual_seed(0))  # [R, K, card]
    rows = RowGuidance.idle(7, torch.device("cpu"))
    rows.set([5, 0], SamplingParams(cfg_coef=3.0))
    rows.set([2, 6, 1], SamplingParams(cfg_coef=2.0, cfg_coef_beta=5.0))
    rows.set([4], SamplingParams(cfg_coef=1.0))
    mixed = mix(logits, rows, len(logits))
    full, null = logits[5], logits[0]
    assert torch.equal(mixed[5], null + 3.0 * (full - null))
    full, audio, null = logits[2], logits[6], logits[1]
    expected = null + 2.0 * (audio + 5.0 * (full - audio) - null)
    torch.testing.assert_close(mixed[2], expected, rtol=0, atol=1e-5)
    assert torch.equal(mixed[4], logits[4])
    assert rows.lead.tolist() == [5, 2, 2, 3, 4, 5, 2]


def test_rows_forget_their_last_clip() -> None:
    logits = torch.randn(3, 4, 48, generator=torch.Generator().manual_seed(0))
    rows = RowGuidance.idle(3, torch.device("cpu"))
    rows.set([0, 1, 2], SamplingParams(cfg_coef=2.0, cfg_coef_beta=5.0))
    rows.set([0], SamplingParams(cfg_coef=1.0))
    rows.set([2, 1], SamplingParams(cfg_coef=3.0))
    mixed = mix(logits, rows, len(logits))
    assert torch.equal(mixed[0], logits[0])
    assert torch.equal(mixed[2], logits[1] + 3.0 * (logits[2] - logits[1]))
    assert rows.lead.tolist() == [0, 2, 2]
