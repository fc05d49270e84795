"""How many kernels a step launches: what a GPU pays for where it has no graph.

Counted by operator below autograd, views left out: on CUDA each of them is at least one kernel.
"""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from musicgen.config import FuseMethod, SamplingParams
from musicgen.engine.engine import Engine, EngineOptions
from musicgen.engine.step import DecodeState, StepShape, decode_step
from musicgen.engine.weights import prepare
from musicgen.lm.sampling import FilterShape
from tests.musicgen.toy import toy_lm

PER_LAYER = {"cross": 33, "prepend": 21}
BESIDE = 70  # embedding, guidance, sampling, bookkeeping


class Launches(TorchDispatchMode):
    """Counts operators that do more than look at a tensor in another way."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.is_view and "_unsafe_view" not in str(func):
            self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def launches(fuse: FuseMethod, n_layers: int) -> list[str]:
    """What a step of all-plain linears launches, with top-k sampling and guidance."""
    lm = toy_lm(fuse, dim=32)
    weights = prepare(lm, "bf16", 64, packed=False)
    weights = type(weights)(**{**vars(weights), "layers": weights.layers[:1] * n_layers})
    state = DecodeState.idle(weights, 4, 64, 40)
    shape = StepShape(64, 64, 2, 2, FilterShape.of([SamplingParams()]), double=False)
    with torch.no_grad(), Launches() as counted:
        decode_step(weights, state, shape)
    return counted.names


@pytest.mark.parametrize("fuse", ["cross", "prepend"])
def test_a_step_launches_few_kernels(fuse: FuseMethod) -> None:
    two, four = (len(launches(fuse, n)) for n in (2, 4))
    per_layer = (four - two) / 2
    assert per_layer <= PER_LAYER[fuse]
    assert two - 2 * per_layer <= BESIDE


def test_the_number_does_not_grow_with_clips_or_text() -> None:
    lm = toy_lm("cross", dim=32)
    counts = []
    for slots in (2, 6):
        engine = Engine(lm, EngineOptions(slots=slots, max_frames=12))
        with torch.no_grad(), Launches() as counted:
            decode_step(engine.weights, engine.state, engine.shape)
        counts.append(len(counted.names))
    assert counts[0] == counts[1]
