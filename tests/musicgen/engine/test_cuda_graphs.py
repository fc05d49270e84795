"""How a step is launched changes nothing: graphs and compilers give the eager tokens."""

import random
from collections.abc import Callable

import pytest
import torch
from torch._dynamo.utils import counters

from musicgen.engine import engine as engine_module
from musicgen.engine.cuda_graphs import GraphedStep, make_step
from musicgen.engine.engine import Engine, EngineOptions
from musicgen.engine.step import DecodeState, StepShape, decode_step
from musicgen.engine.weights import StepWeights, prepare
from tests.musicgen.toy import KINDS, Kind, random_request, run, toy_kind, toy_lm


class Recorded:
    """A stand-in for a CUDA graph: replays a launch with the shapes of its capture."""

    def __init__(self, launch: Callable[[], None]) -> None:
        self.replay = launch


class Captures:
    """Counts captures; a real one records the launch without running it, and so does this."""

    def __init__(self) -> None:
        self.count = self.forgotten = 0

    def __call__(self, launch: Callable[[], None]) -> Recorded:
        self.count += 1
        return Recorded(launch)

    def forget(self) -> None:
        self.forgotten += 1


def tokens_of(
    kind: Kind, step_class: Callable[..., object] | None = None, n_clips: int = 10
) -> dict[str, list[int]]:
    """Tokens of random clips; texts of 70 cells make the cross caches grow on the way."""
    lm, rng = toy_kind(kind, dim=32), random.Random(3)
    made = Engine(lm, EngineOptions(slots=3, max_frames=12, packed=False))
    if step_class is not None:
        made.run_step = step_class(made.weights, made.state)
    requests = [random_request(rng, lm, str(i), 12) for i in range(n_clips)]
    ended = run(made, requests)
    return {key: clip.codes.tolist() for key, clip in ended.items() if clip.codes is not None}


@pytest.mark.parametrize("kind", KINDS)
def test_graphs_give_the_tokens_of_the_eager_step(kind: Kind) -> None:
    captures = Captures()
    graphed = tokens_of(kind, lambda weights, state: GraphedStep(weights, state, captures))
    assert graphed == tokens_of(kind)
    assert len(graphed) == 10
    assert captures.count > 1


def test_a_shape_runs_eagerly_then_is_captured_and_replayed_and_forgotten() -> None:
    lm = toy_lm("cross", dim=32)
    weights = prepare(lm, "fp32", 64, packed=False)
    state = DecodeState.idle(weights, 2, 64, 40)
    state.running[:] = 1
    captures = Captures()
    step = GraphedStep(weights, state, captures)
    shape = Engine(lm, EngineOptions(slots=1, max_frames=4, packed=False)).shape
    for n_steps, n_captures in [(1, 0), (2, 1), (3, 1)]:
        step(shape)
        assert state.step.tolist() == [n_steps, n_steps]
        assert captures.count == n_captures
    step.forget()
    step(shape)
    step(shape)
    assert captures.count == 2
    assert captures.forgotten == 1


def test_cached_graphs_are_dropped_when_the_cross_caches_move(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lm, captures = toy_lm("cross", dim=32), Captures()

    def graphed(weights: StepWeights, state: DecodeState, **_: object) -> GraphedStep:
        return GraphedStep(weights, state, captures)

    monkeypatch.setattr(engine_module, "make_step", graphed)
    engine = Engine(lm, EngineOptions(slots=2, max_frames=12))
    rng = random.Random(1)
    requests = [random_request(rng, lm, str(i), 12) for i in range(6)]
    assert {len(r.conditions.text) for r in requests} & {70}  # more than one block of cells
    forgotten = []
    forget = engine.run_step.forget
    engine.run_step.forget = lambda: (forgotten.append(1), forget())  # type: ignore[method-assign]
    run(engine, requests)
    assert len(forgotten) == 1


def test_graphs_are_refused_where_there_is_no_cuda() -> None:
    weights = prepare(toy_lm("cross", dim=32), "fp32", 64)
    state = DecodeState.idle(weights, 2, 64, 10)
    with pytest.raises(ValueError, match="graphs=True needs CUDA"):
        make_step(weights, state, graphs=True)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["text", "melody"])
def test_the_whole_step_compiles_as_one_graph(kind: Kind) -> None:
    """No break, no data-dependent shape: what CUDA graphs need, checked without CUDA."""
    torch._dynamo.reset()
    compiled = torch.compile(decode_step, fullgraph=True, backend="aot_eager", dynamic=False)

    def launcher(weights: StepWeights, state: DecodeState) -> Callable[[StepShape], None]:
        def step(shape: StepShape) -> None:
            compiled(weights, state, shape)

        step.forget = lambda: None  # type: ignore[attr-defined]
        return step

    with torch._dynamo.config.patch(recompile_limit=64):
        assert tokens_of(kind, launcher, n_clips=4) == tokens_of(kind, n_clips=4)
    assert not counters["graph_break"]
