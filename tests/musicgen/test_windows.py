"""Windows: every length exactly, tokens as one long clip, AudioCraft's numbers without its bugs."""

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from musicgen.conditioning.fuser import ClipConditions
from musicgen.config import SamplingParams, n_frames
from musicgen.engine.engine import Engine, EngineOptions, EngineOutput, Request
from musicgen.lm.model import LMModel
from musicgen.lm.sampling import uniform
from musicgen.windows import Window, plan_windows, stride_frames
from tests.musicgen.lm.test_lm import golden_lm
from tests.musicgen.toy import GOLDEN, run, toy_lm

GOLD = torch.load(GOLDEN / "lm_batched.pt", weights_only=True)
LONG = GOLD["longform"]
PADDED = GOLD["mixed"]["embeds"]  # [6, 15, 64]: a short text, a long one, none; then null rows
GREEDY = SamplingParams(use_sampling=False)
WINDOW, STRIDE = 1500, 900


def check_tiling(windows: Sequence[Window], total: int, window: int, n_prompt: int = 0) -> None:
    known = n_prompt
    for index, w in enumerate(windows):
        assert w.index == index
        assert w.first_frame + w.n_prompt == known
        assert 0 < w.n_new <= w.n_frames <= window
        known += w.n_new
    assert known == total


def test_all_durations_on_the_grid_have_exactly_their_frames() -> None:
    for step in range(1, 15_001):  # 0.02 s .. 300 s, as a float in seconds arrives
        total = n_frames(round(step * 0.02 * 1_000_000), 50)
        assert total == step
        windows = plan_windows(total, window=WINDOW, stride=STRIDE)
        check_tiling(windows, total, WINDOW)
        assert [w.first_frame for w in windows] == [STRIDE * i for i in range(len(windows))]
        assert all(w.n_frames == WINDOW for w in windows[:-1])
        assert len(windows) == 1 + max(0, -(-(total - WINDOW) // STRIDE))


@pytest.mark.parametrize(("seconds", "calls"), [(60, 3), (120, 6), (300, 16)])
def test_whole_seconds_take_as_many_windows_as_the_reference(seconds: int, calls: int) -> None:
    assert len(plan_windows(seconds * 50, window=WINDOW, stride=STRIDE)) == calls


@pytest.mark.parametrize("seconds", [30.06, 36.08])
def test_durations_that_the_reference_cuts_or_dies_of(seconds: float) -> None:
    total = n_frames(round(seconds * 1_000_000), 50)
    assert total == round(seconds * 50)
    check_tiling(plan_windows(total, window=WINDOW, stride=STRIDE), total, WINDOW)


def test_any_window_stride_and_prompt_tile() -> None:
    rng = random.Random(0)
    for _ in range(2000):
        window = rng.randint(2, 60)
        stride, total = rng.randint(1, window - 1), rng.randint(1, 300)
        n_prompt = rng.randrange(total)
        windows = plan_windows(total, window=window, stride=stride, n_prompt=n_prompt)
        check_tiling(windows, total, window, n_prompt)
        assert all(w.first_frame % stride == 0 for w in windows)
        if n_prompt:  # as much of a long prompt is heard as a following window would hear
            assert windows[0].n_prompt >= min(n_prompt, window - stride)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"total": 0, "window": 10}, "n_frames=0 must be at least 1"),
        ({"total": 10, "window": 10, "n_prompt": 10}, "prompt has 10 frames, the whole clip only"),
        ({"total": 11, "window": 10}, r"n_frames=11 must lie in 1\.\.10"),
        ({"total": 11, "window": 10, "stride": 10}, r"stride of 10 frames must lie in 1\.\.9"),
        ({"total": 11, "window": 10, "stride": 0}, "stride of 0"),
    ],
)
def test_what_can_not_be_tiled_is_refused(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_windows(**arguments)


def test_a_stride_is_given_in_seconds() -> None:
    assert stride_frames(18, 50, 1500) == 900
    assert stride_frames(0.35, 50, 30) == 18  # 17.5 frames, rounded half up
    windows = (1500, 3000, 500, 30)  # 30 s, 60 s, 10 s, 0.6 s
    assert [stride_frames(None, 50, window) for window in windows] == [900, 900, 300, 18]
    assert stride_frames(None, 50, None) == 900
    for wrong in (0, -1, float("nan"), 30, 31):
        with pytest.raises(ValueError, match=f"extend_stride={wrong}"):
            stride_frames(wrong, 50, 1500)


def test_noise_is_that_of_the_absolute_frame() -> None:
    whole = uniform(7, 4, 100)
    assert torch.equal(uniform(7, 4, 30, 55), whole[:, 55:85])


def reference(
    lm: LMModel, windows: Sequence[Window], clips: Sequence[ClipConditions], request: Request
) -> Tensor:
    """Codes [K, T] by the slow loop, window after window."""
    known = request.prompt_codes
    for window, clip in zip(windows, clips, strict=True):
        codes = lm.generate(
            clip,
            window.n_frames,
            seed=request.seed,
            sampling=request.sampling,
            prompt_codes=None if known is None else known[:, window.first_frame :],
            first_frame=window.first_frame,
        )
        new = codes[:, window.n_prompt :]
        known = new if known is None else torch.cat([known, new], dim=1)
    assert known is not None
    return known


def long_request(key: str, conditions: ClipConditions, total: int, **changes: object) -> Request:
    request = replace(Request(key, conditions, total, seed=11, sampling=GREEDY), **changes)
    windows = plan_windows(total, window=30, stride=18, n_prompt=request.n_prompt)
    return replace(request, windows=windows)


@pytest.mark.parametrize(
    ("prompt", "tokens"), [(None, "tokens"), ("prompt_tokens", "tokens_with_prompt")]
)
def test_long_clips_have_audiocrafts_tokens(prompt: str | None, tokens: str) -> None:
    """AudioCraft's are those of a batch: the engine is fed the padding that each row saw."""
    requests = []
    for row in range(2):
        opening = None if prompt is None else LONG[prompt][row]
        conditions = ClipConditions(PADDED[row])
        requests.append(long_request(str(row), conditions, 85, prompt_codes=opening))
    ended = run(Engine(golden_lm(), EngineOptions(slots=2, max_frames=30)), requests)
    for row in range(2):
        assert torch.equal(ended[str(row)].codes, LONG[tokens][row])


def test_progress_is_not_audiocrafts() -> None:
    """Its total stays that of a window, so that it counts past it: 76 of 4."""
    total = long_request("a", ClipConditions(PADDED[0]), 85).n_steps(max_delay=3)
    assert LONG["progress"].shape == (total, 2)
    assert LONG["progress"][-1].tolist() == [76, 4]
    assert [total, total] != LONG["progress"][-1].tolist()


def melody(generator: torch.Generator) -> Tensor:
    return torch.randn(7, 64, generator=generator)


def some_long_requests() -> list[Request]:
    """Prompts and guidance of every kind, a melody that changes from window to window."""
    generator, requests = torch.Generator().manual_seed(2), []
    beta: float | None
    for i, (total, n_prompt, coef, beta) in enumerate(
        [(29, 0, 3, None), (85, 0, 1, None), (60, 12, 3, 2.0), (90, 47, 3, None), (31, 30, 3, 2.0)]
    ):
        text = torch.randn(2 + i, 64, generator=generator)
        null = torch.zeros(7, 64)
        by_window = [ClipConditions(text, melody(generator), null) for _ in range(6)]
        prompt = torch.randint(80, (4, n_prompt), generator=generator) if n_prompt else None
        request = long_request(
            str(i),
            by_window[0],
            total,
            prompt_codes=prompt,
            later_conditions=by_window.__getitem__,
            sampling=SamplingParams(cfg_coef=coef, cfg_coef_beta=beta, top_k=20),
        )
        requests.append(request)
    return requests


def test_windows_are_the_reference_loops_and_the_same_bits_in_any_company() -> None:
    lm, requests = toy_lm("prepend"), some_long_requests()
    ended = run(Engine(lm, EngineOptions(slots=2, max_frames=30)), requests)
    engine = Engine(lm, EngineOptions(slots=2, max_frames=30))
    for request in requests:
        clips = [request.conditions_of(window) for window in request.plan]
        codes = reference(lm, request.plan, clips, request)
        finished = ended[request.key]
        assert finished.codes is not None
        assert torch.equal(finished.codes, codes)
        assert finished.codes.shape == (4, request.n_frames)
        assert finished.n_steps == request.n_steps(max_delay=3)
        assert torch.equal(run(engine, [request])[request.key].codes, codes)
        if request.prompt_codes is not None:
            assert torch.equal(codes[:, : request.n_prompt], request.prompt_codes)


def test_a_later_window_hears_its_own_melody() -> None:
    request = some_long_requests()[2]
    engine = Engine(toy_lm("prepend"), EngineOptions(slots=2, max_frames=30))
    own = run(engine, [request])["2"].codes
    same = run(engine, [replace(request, later_conditions=None)])["2"].codes
    assert own is not None
    assert same is not None
    assert torch.equal(own[:, :30], same[:, :30])
    assert not torch.equal(own, same)


def test_a_long_clip_keeps_its_turn_and_is_admitted_once() -> None:
    engine = Engine(toy_lm("cross"), EngineOptions(slots=1, max_frames=30))
    admitted: list[str] = []
    engine.on_admit = admitted.append
    text = ClipConditions(torch.ones(3, 64))
    requests = [long_request("long", text, 70), long_request("next", text, 5)]
    for request in requests:
        engine.submit(request)
    order: list[str] = []
    while engine.n_active or engine.n_waiting:
        order += [finished.key for finished in engine.step()]
        assert not engine.has_room or not engine.n_waiting
    assert admitted == order == ["long", "next"]
    assert engine.n_steps == sum(request.n_steps(max_delay=3) for request in requests)
    assert engine.occupancy == 1.0


@pytest.mark.parametrize("trouble", ["raises", "nan", "wrong shape"])
def test_a_later_window_that_fails_fails_its_clip_alone(trouble: str) -> None:
    def later(index: int) -> ClipConditions:
        if trouble == "raises":
            raise ValueError(f"no audio for window {index}")
        if trouble == "nan":
            return ClipConditions(torch.full((3, 64), torch.nan))
        return ClipConditions(torch.ones(3, 60))

    engine = Engine(toy_lm("cross"), EngineOptions(slots=1, max_frames=30))
    good = ClipConditions(torch.ones(3, 64))
    sick = long_request("sick", good, 70, later_conditions=later)
    healthy = long_request("well", good, 40)
    expected = run(engine, [healthy])["well"].codes
    ended: dict[str, EngineOutput] = run(engine, [sick, healthy])
    assert ended["sick"].codes is None
    message = {"raises": "for window 1", "nan": "NaN", "wrong shape": "clip sick, window 1: text"}
    assert message[trouble] in str(ended["sick"].error)
    assert torch.equal(ended["well"].codes, expected)


@pytest.mark.parametrize(
    ("windows", "message"),
    [
        ([Window(0, 0, 31, 0)], r"n_frames of window 0=31 must lie in 1\.\.30"),
        ([Window(0, 0, 30, 0), Window(1, 18, 22, 11)], "where frame 30 is the next"),
        ([Window(0, 0, 30, 0), Window(1, 18, 21, 12)], "end at frame 39 of 40"),
    ],
)
def test_windows_that_do_not_make_the_clip_are_refused(windows: list[Window], message: str) -> None:
    engine = Engine(toy_lm("cross"), EngineOptions(slots=1, max_frames=30))
    request = Request("x", ClipConditions(torch.ones(3, 64)), 40, 0, windows=tuple(windows))
    with pytest.raises(ValueError, match=message):
        engine.submit(request)


@pytest.mark.parametrize(
    ("longest", "edges"),
    [
        pytest.param(  # the reference dies of the last two
            3_600, [1, 1_499, 1_500, 1_501, 1_503, 1_804], marks=pytest.mark.long
        ),
        pytest.param(15_000, [15_000], marks=pytest.mark.long),
    ],
)
def test_twenty_durations_are_generated_to_the_frame(longest: int, edges: list[int]) -> None:
    lm, rng = toy_lm("cross", dim=16), random.Random(1)
    steps = edges + [rng.randint(1, longest) for _ in range(20 - len(edges))]
    text = ClipConditions(torch.ones(3, 16))
    sampling = SamplingParams(cfg_coef=1.0)
    requests = [
        Request(
            str(i),
            text,
            total := n_frames(round(step * 0.02 * 1_000_000), 50),
            seed=i,
            sampling=sampling,
            windows=plan_windows(total, window=WINDOW, stride=STRIDE),
        )
        for i, step in enumerate(steps)
    ]
    ended = run(Engine(lm, EngineOptions(slots=10, max_frames=WINDOW)), requests)
    for i, step in enumerate(steps):
        codes = ended[str(i)].codes
        assert codes is not None
        assert codes.shape == (4, step)
        assert 0 <= codes.min() <= codes.max() < lm.cfg.card
