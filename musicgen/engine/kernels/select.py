"""The one place that decides between the fused kernels and the eager step."""

from importlib.util import find_spec
from typing import Literal, Protocol, get_args

import torch

from musicgen.engine.kernels.table import OLDEST, capability_of
from musicgen.engine.step import DecodeState, StepShape, decode_step
from musicgen.engine.weights import StepWeights

Kernels = Literal["auto", "triton", "eager"]


class Decode(Protocol):
    """Runs decode steps over one state."""

    def __call__(self, shape: StepShape) -> None:
        """One decode step, in place."""

    def static_part(self, shape: StepShape) -> StepShape:
        """`shape` without what the launches of a step do not depend on."""


class EagerDecode:
    """Runs the step of torch's own operators; its launches depend on all of a shape."""

    def __init__(self, weights: StepWeights, state: DecodeState) -> None:
        self._weights, self._state = weights, state

    def __call__(self, shape: StepShape) -> None:
        """One decode step, in place."""
        decode_step(self._weights, self._state, shape)

    def static_part(self, shape: StepShape) -> StepShape:
        """All of `shape`."""
        return shape


def make_decode(weights: StepWeights, state: DecodeState, kernels: str) -> Decode:
    """What runs the steps over `state`.

    Args:
        weights: The model.
        state: The rows.
        kernels: `triton` or `eager`; `auto` takes Triton on a CUDA GPU that the table knows where
            Triton is installed, and else the eager step.

    Raises:
        ValueError: There is no such choice, or Triton can't run here.
    """
    if kernels not in get_args(Kernels):
        raise ValueError(f"kernels={kernels!r} must be one of {', '.join(get_args(Kernels))}")
    if kernels == "eager" or (kernels == "auto" and weights.device.type != "cuda"):
        return EagerDecode(weights, state)
    missing = why_not_triton(weights)
    if missing and kernels == "triton":
        raise ValueError(f"kernels='triton' {missing}; take 'auto' or 'eager'")
    if missing:
        return EagerDecode(weights, state)
    from musicgen.engine.kernels.fused_step import FusedStep  # needs Triton

    return FusedStep(weights, state)


def why_not_triton(weights: StepWeights) -> str | None:
    """Why the kernels can't run for `weights`; None if they can."""
    if weights.packed:
        return "needs linear layers that are not packed (packed=False)"
    if find_spec("triton") is None:
        return "needs the package triton"
    if interpreted():
        return None
    if weights.device.type != "cuda" or not torch.cuda.is_available():
        return "needs a CUDA GPU, or Triton's interpreter (TRITON_INTERPRET=1)"
    if capability_of(weights.device) < OLDEST:
        return f"needs a GPU of compute capability {OLDEST / 10} or newer"
    return None


def interpreted() -> bool:
    """Whether Triton's interpreter runs the kernels, on a CPU."""
    import triton

    return bool(triton.knobs.runtime.interpret)
