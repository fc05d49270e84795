"""The engine: the reference's tokens, and the same bits whatever runs beside a clip."""

import random
from dataclasses import replace

import pytest
import torch

from musicgen.conditioning.fuser import ClipConditions
from musicgen.config import FuseMethod, SamplingParams
from musicgen.engine.engine import Engine, EngineOptions, NonFiniteLogitsError, Request
from musicgen.engine.request import WindowStart
from tests.musicgen.lm.test_lm import CASES, GREEDY, golden_lm
from tests.musicgen.toy import random_request, run, toy_lm

TEXT = ClipConditions(torch.randn(3, 64, generator=torch.Generator().manual_seed(5)))


def request(key: str, n_frames: int = 10, **changes: object) -> Request:
    return replace(Request(key, TEXT, n_frames, seed=1), **changes)


def test_greedy_tokens_are_audiocrafts() -> None:
    requests, expected = [], {}
    for name, case in CASES.items():
        conditions = ClipConditions(case["embeds"])
        requests.append(Request(name, conditions, 16, 0, GREEDY))
        expected[name] = case["greedy"][0]
    prompt = CASES["b1_short"]["continuation_prompt"][0]
    conditions = ClipConditions(CASES["b1_short"]["embeds"])
    requests.append(Request("continued", conditions, 16, 0, GREEDY, prompt))
    expected["continued"] = CASES["b1_short"]["continuation_greedy"][0]
    ended = run(Engine(golden_lm(), EngineOptions(slots=2, max_frames=16)), requests)
    for key, codes in expected.items():
        assert torch.equal(ended[key].codes, codes)
    assert ended["b1_long"].n_steps == 16 + 3
    assert ended["continued"].n_steps == 16 + 3 - 5


@pytest.mark.parametrize("fuse", ["cross", "prepend"])
def test_sampled_tokens_are_the_reference_loops(fuse: FuseMethod) -> None:
    lm, rng = toy_lm(fuse), random.Random(0)
    requests = [random_request(rng, lm, str(i), max_frames=12) for i in range(8)]
    ended = run(Engine(lm, EngineOptions(slots=3, max_frames=12)), requests)
    for r in requests:
        codes = lm.generate(
            r.conditions,
            r.n_frames,
            seed=r.seed,
            sampling=r.sampling,
            prompt_codes=r.prompt_codes,
        )
        assert torch.equal(ended[r.key].codes, codes)


def test_clips_leave_at_their_own_length_and_others_take_their_rows() -> None:
    engine = Engine(toy_lm("cross"), EngineOptions(slots=2, max_frames=40))
    admitted: list[str] = []
    engine.on_admit = admitted.append
    for key, n_frames in [("long", 40), ("short", 5), ("next", 5), ("last", 5)]:
        engine.submit(request(key, n_frames))
    assert not engine.has_room
    ended_at = {}
    while engine.n_active or engine.n_waiting:
        for finished in engine.step():
            ended_at[finished.key] = engine.n_steps
    assert admitted == ["long", "short", "next", "last"]
    assert ended_at == {"short": 8, "next": 16, "last": 24, "long": 43}
    assert engine.has_room
    assert engine.occupancy == (2 * 43 + 2 * 24) / (4 * 43)


@pytest.mark.parametrize("slots", [1, 2])
def test_guidance_kinds_take_one_two_or_three_rows(slots: int) -> None:
    engine = Engine(toy_lm("cross"), EngineOptions(slots=slots, max_frames=10))
    for i in range(4):
        engine.submit(request(f"none {i}", sampling=SamplingParams(cfg_coef=1.0)))
    engine.step()
    assert engine.n_active == 2 * slots
    double = request("double", sampling=SamplingParams(cfg_coef_beta=5.0))
    if slots == 1:
        with pytest.raises(ValueError, match=r"needs 3 rows, the engine has 2.*--slots to 2"):
            engine.submit(double)
    else:
        engine.submit(double)
        assert engine.n_waiting == 1


@pytest.mark.parametrize("n_frames", [10, 100])
def test_nan_logits_fail_their_clip_alone(n_frames: int) -> None:
    lm = toy_lm("cross")
    requests = [request(key, n_frames, seed=i) for i, key in enumerate("abcd")]
    poison = torch.full((3, 64), torch.nan)
    engine = Engine(lm, EngineOptions(slots=2, max_frames=100))
    sick = replace(requests[1], conditions=ClipConditions(poison))
    ended = run(engine, [requests[0], sick, *requests[2:]])
    assert isinstance(ended["b"].error, NonFiniteLogitsError)
    assert "clip b" in str(ended["b"].error)
    assert ended["b"].codes is None
    assert ended["b"].n_steps <= 64
    healthy = run(Engine(lm, EngineOptions(slots=2, max_frames=100)), requests)
    for key in "acd":
        assert torch.equal(ended[key].codes, healthy[key].codes)
    assert torch.equal(run(engine, [requests[1]])["b"].codes, healthy["b"].codes)


def test_reset_forgets_everything_in_flight() -> None:
    engine = Engine(toy_lm("cross"), EngineOptions(slots=1, max_frames=10))
    expected = run(engine, [request("a")])["a"].codes
    for key in "bcd":
        engine.submit(request(key))
    engine.step()
    engine.reset()
    assert (engine.n_active, engine.n_waiting, engine.has_room) == (0, 0, True)
    assert engine.step() == []
    assert torch.equal(run(engine, [request("a")])["a"].codes, expected)


def test_reset_gets_back_the_rows_that_an_exception_took(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = Engine(toy_lm("cross"), EngineOptions(slots=1, max_frames=10))

    def run_out(*_: object) -> None:
        raise torch.OutOfMemoryError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr("musicgen.engine.engine.fill_prefix", run_out)
        engine.submit(request("a"))
        with pytest.raises(torch.OutOfMemoryError):
            engine.step()
    assert not engine.has_room
    engine.reset()
    assert run(engine, [request("a")])["a"].codes is not None


PROMPT = torch.zeros(4, 10, dtype=torch.int64)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_frames": 0}, r"n_frames=0 must lie in 1\.\.10"),
        ({"n_frames": 11}, r"n_frames=11 must lie in 1\.\.10"),
        ({"seed": 2**63}, "seed="),
        ({"seed": -1}, "seed=-1"),
        ({"prompt_codes": PROMPT}, "prompt has 10 frames, the whole clip only 10"),
        ({"prompt_codes": PROMPT[:2, :5]}, r"\(2, 5\) must be \[4, T0"),
        ({"prompt_codes": PROMPT[:, :5] + 80}, r"0\.\.79"),
        ({"conditions": ClipConditions(torch.zeros(21, 64))}, "21 tokens, the engine takes 20"),
        ({"conditions": ClipConditions(torch.zeros(0, 64))}, "L >= 1"),
        ({"conditions": ClipConditions(TEXT.text, torch.zeros(7, 64))}, "takes no melody"),
    ],
)
def test_what_could_never_run_is_refused(changes: dict[str, object], message: str) -> None:
    engine = Engine(toy_lm("cross"), EngineOptions(slots=1, max_frames=10, max_text_tokens=20))
    with pytest.raises(ValueError, match=f"clip x: .*{message}"):
        engine.submit(request("x", **changes))
    assert engine.n_waiting == 0


def test_a_melody_model_needs_prefixes_of_its_own_length() -> None:
    engine = Engine(toy_lm("prepend"), EngineOptions(slots=1, max_frames=10))
    short = ClipConditions(TEXT.text, torch.zeros(5, 64), torch.zeros(7, 64))
    with pytest.raises(ValueError, match=r"audio \(5, 64\) must be \[7, 64\]"):
        engine.submit(request("x", conditions=short))
    with pytest.raises(ValueError, match="needs null_audio"):
        engine.submit(request("x"))


@pytest.mark.parametrize(
    ("wrong", "message"), [({"slots": 0}, "--slots 0"), ({"dtype": "fp16"}, "needs a GPU")]
)
def test_an_impossible_engine_is_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Engine(toy_lm("cross"), EngineOptions(**{"slots": 1, "max_frames": 10, **wrong}))


def test_a_beginning_that_was_made_beforehand_counts_only_for_its_own_clip() -> None:
    """A request that is copied with another seed or prompt keeps the old one's beginning."""
    lm, rng = toy_lm("cross"), random.Random(2)
    device = torch.device("cpu")
    plain = replace(random_request(rng, lm, "a", 12), n_frames=12, prompt_codes=None)
    window = plain.plan[0]
    start = WindowStart.of(lm.cfg, plain.seed, window, None, device)
    prompt = torch.randint(lm.cfg.card, (lm.cfg.n_codebooks, 5))
    for change in ({}, {"seed": 5}, {"prompt_codes": prompt}, {"n_frames": 9}):
        codes = [
            run(Engine(lm, EngineOptions(slots=2, max_frames=12)), [request])["a"].codes
            for request in (replace(plain, **change), replace(plain, start=start, **change))
        ]
        assert torch.equal(*codes)
