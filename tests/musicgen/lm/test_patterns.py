"""The reference's patterns as views on ours."""

import pytest
import torch
from torch import Tensor

from musicgen.lm.delay_pattern import build, revert
from musicgen.lm.pattern_providers import DelayedPatternProvider, ParallelPatternProvider
from musicgen.lm.patterns import LayoutCoord
from tests.musicgen.checkpoint_files import golden

SPECIAL = 99
STEREO = [0, 0, 1, 1, 2, 2, 3, 3]


def codes(n_books: int, n_frames: int) -> Tensor:
    return torch.arange(2 * n_books * n_frames).reshape(2, n_books, n_frames)


@pytest.mark.parametrize("n_frames", [1, 2, 7])
@pytest.mark.parametrize("delays", [[0, 1, 2, 3], STEREO, [0, 2, 5]])
def test_a_sequence_is_that_of_the_engine(delays: list[int], n_frames: int) -> None:
    pattern = DelayedPatternProvider(len(delays), delays).get_pattern(n_frames)
    z = codes(len(delays), n_frames)
    sequence, indexes, mask = pattern.build_pattern_sequence(z, SPECIAL)
    assert torch.equal(sequence, build(z, tuple(delays), SPECIAL))
    assert torch.equal(mask, sequence[0] != SPECIAL) or SPECIAL in z
    picked = torch.cat([z.flatten(1), torch.full((2, 1), SPECIAL)], dim=1)[:, indexes]
    assert torch.equal(picked, sequence)
    back, _, found = pattern.revert_pattern_sequence(sequence, SPECIAL)
    assert torch.equal(back, revert(sequence, tuple(delays), n_frames))
    assert found.all()
    assert pattern.num_sequence_steps == n_frames + max(delays) == n_frames + pattern.max_delay


def test_the_layout_is_the_references() -> None:
    for case in golden("pattern.pt")["cases"].values():
        n_books, n_frames = case["z"].shape[-2:]
        delays = None if n_books == 4 else STEREO
        pattern = DelayedPatternProvider(n_books, delays).get_pattern(n_frames)
        sequence, _, mask = pattern.build_pattern_sequence(
            case["z"].view(-1, n_books, n_frames), -7
        )
        assert torch.equal(sequence.view_as(case["sequence"]), case["sequence"])
        assert torch.equal(mask, case["mask"])


def test_steps_know_their_frames_and_frames_their_steps() -> None:
    pattern = DelayedPatternProvider(3).get_pattern(2)
    assert pattern.layout == [
        [],
        [(0, 0)],
        [(1, 0), (0, 1)],
        [(2, 0), (1, 1), (0, 2)],
        [(3, 0), (2, 1), (1, 2)],
    ]
    assert pattern.valid_layout == pattern.layout[:3]
    assert pattern.get_steps_with_timestep(1) == [2, 3, 4]
    assert pattern.get_steps_with_timestep(1, q=1) == [3]
    assert pattern.get_first_step_with_timesteps(1) == 2
    assert pattern.get_first_step_with_timesteps(0, q=2) == 3
    assert pattern.get_sequence_coords_with_timestep(0, 1) == [(2, LayoutCoord(t=0, q=1))]


def test_valid_steps_alone_hold_less() -> None:
    pattern = DelayedPatternProvider(2).get_pattern(3)
    z = torch.tensor([[[1, 2, 3], [4, 5, 6]]])
    sequence, _, _ = pattern.build_pattern_sequence(z, 0, keep_only_valid_steps=True)
    assert sequence.tolist() == [[[0, 1, 2, 3], [0, 0, 4, 5]]]
    back, _, mask = pattern.revert_pattern_sequence(sequence, 0, keep_only_valid_steps=True)
    assert back.tolist() == [[[1, 2, 3], [4, 5, 0]]]
    assert mask.tolist() == [[True, True, True], [True, True, False]]


def test_logits_of_a_step_decide_the_frames_of_the_next() -> None:
    pattern = DelayedPatternProvider(2).get_pattern(2)
    steps = torch.arange(4.0).expand(1, 5, 2, 4)  # each logit is the number of its step
    logits, _, mask = pattern.revert_pattern_logits(steps, float("nan"))
    assert logits[0, 0].tolist() == [[0, 1], [1, 2]]
    assert mask.all()


def test_parallel_codebooks_have_no_delay() -> None:
    pattern = ParallelPatternProvider(3).get_pattern(2)
    assert pattern.max_delay == 0
    sequence, _, _ = pattern.build_pattern_sequence(codes(3, 2), SPECIAL)
    assert torch.equal(sequence[..., 1:], codes(3, 2))


@pytest.mark.parametrize("kind", [AssertionError, ValueError])
def test_what_does_not_fit_the_pattern_is_refused(kind: type[Exception]) -> None:
    pattern = DelayedPatternProvider(2).get_pattern(3)
    with pytest.raises(kind, match="got 3 codebooks of 3 frames; the pattern has 2 of 3"):
        pattern.build_pattern_sequence(codes(3, 3), SPECIAL)
    with pytest.raises(kind, match="got 2 codebooks of 6 steps; the pattern has 2 of 5"):
        pattern.revert_pattern_sequence(codes(2, 6), SPECIAL)
    with pytest.raises(kind, match="t=4, q=None: the pattern has 3 frames"):
        pattern.get_steps_with_timestep(4)
    with pytest.raises(kind, match="must be 2 numbers"):
        DelayedPatternProvider(2, [1, 0])
