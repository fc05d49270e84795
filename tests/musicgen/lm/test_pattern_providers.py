"""Patterns that no released model has, against layouts written by hand."""

import pytest
import torch

from musicgen.lm.pattern_providers import (
    CoarseFirstPattern,
    CodebooksPatternProvider,
    DelayedPatternProvider,
    MusicLMPattern,
    ParallelPatternProvider,
    UnrolledPatternProvider,
)

# By number of frames: each step as "frame/codebook frame/codebook …", "-" for an empty one.
LAYOUTS = [
    (DelayedPatternProvider(2, [0, 1], empty_initial=2), 2, "- - - 0/0 1/0,0/1 2/0,1/1"),
    (DelayedPatternProvider(2, [0, 1], empty_initial=-1), 2, "0/0 1/0,0/1 2/0,1/1"),
    (DelayedPatternProvider(2, [0, 1], 1), 3, "- 0/0 0/1 1/0 2/0,1/1 3/0,2/1"),
    (DelayedPatternProvider(2, [0, 1], 9), 2, "- 0/0 0/1 1/0 1/1"),
    (ParallelPatternProvider(2, empty_initial=1), 1, "- - 0/0,0/1"),
    (UnrolledPatternProvider(3), 2, "- 0/0 0/1 0/2 1/0 1/1 1/2"),
    (UnrolledPatternProvider(3, [0, 2, 2]), 2, "- - 0/0 0/1,0/2 - 1/0 1/1,1/2"),
    (UnrolledPatternProvider(2, delays=[0, 1]), 2, "- 0/0 0/1 1/0 1/1 2/0"),
    (CoarseFirstPattern(3), 2, "- 0/0 1/0 0/1,0/2 1/1,1/2"),
    (CoarseFirstPattern(3, [0, 1]), 2, "- 0/0 1/0 0/1 1/1,0/2 2/1,1/2"),
    (MusicLMPattern(4), 2, "- 0/0 0/1 1/0 1/1 0/2 0/3 1/2 1/3"),
    (MusicLMPattern(2, group_by=1), 2, "- 0/0 1/0 0/1 1/1"),
]


def written(provider: CodebooksPatternProvider, n_frames: int) -> str:
    layout = provider.get_pattern(n_frames).layout
    return " ".join(",".join(f"{t}/{q}" for t, q in step) or "-" for step in layout)


@pytest.mark.parametrize(("provider", "n_frames", "expected"), LAYOUTS)
def test_a_layout(provider: CodebooksPatternProvider, n_frames: int, expected: str) -> None:
    assert written(provider, n_frames) == expected


@pytest.mark.parametrize("provider", [provider for provider, _, _ in LAYOUTS])
def test_codes_go_there_and_back(provider: CodebooksPatternProvider) -> None:
    pattern = provider.get_pattern(5)
    codes = torch.arange(10 * provider.n_q).view(2, provider.n_q, 5)
    sequence, _, held = pattern.build_pattern_sequence(codes, 999)
    assert (sequence == 999).any() or held.all()
    back, _, found = pattern.revert_pattern_sequence(sequence, 999)
    assert torch.equal(back, codes)
    assert found.all()
    assert pattern.num_sequence_steps + 1 == sequence.shape[-1]


def test_logits_decide_their_own_step_where_no_empty_one_comes_first() -> None:
    pattern = DelayedPatternProvider(2, [0, 1], empty_initial=-1).get_pattern(2)
    steps = torch.arange(3.0).expand(1, 5, 2, 3)  # each logit is the number of its step
    logits, _, _ = pattern.revert_pattern_logits(steps, float("nan"))
    assert logits[0, 0].tolist() == [[0, 1], [1, 2]]


def test_steps_of_an_unrolled_pattern() -> None:
    provider = UnrolledPatternProvider(4, [0, 1, 1, 2], [0, 3, 3, 3])
    assert provider.num_virtual_steps(5) == 16
    assert provider.max_delay == 3
    assert provider.get_pattern(5).max_delay == 3


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: UnrolledPatternProvider(3, [0, 1]), "must be 3 numbers each"),
        (lambda: UnrolledPatternProvider(2, [0, 0], [0, 1]), "of one step must lag alike"),
        (lambda: CoarseFirstPattern(3, [0]), "must be 2 numbers, one per codebook but the first"),
        (lambda: MusicLMPattern(4, 3), "group_by=3 must divide the 4 codebooks"),
    ],
)
def test_what_makes_no_pattern_is_refused(wrong: object, said: str) -> None:
    assert callable(wrong)
    with pytest.raises(AssertionError, match=said):
        wrong()
