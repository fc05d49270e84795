"""The one place that decides between the fused kernels and the eager step."""

import logging
from importlib.util import find_spec
from typing import Literal, Protocol, get_args

import torch

from musicgen.engine.device_errors import is_broken_cuda, is_out_of_memory
from musicgen.engine.kernels.table import OLDEST, capability_of
from musicgen.engine.step import DecodeState, StepShape, decode_step
from musicgen.engine.weights import StepWeights

logger = logging.getLogger(__name__)

Kernels = Literal["auto", "triton", "eager"]


class Decode(Protocol):
    """Runs decode steps over one state.

    Attributes:
        name: `triton` or `eager`.
    """

    name: str

    def __call__(self, shape: StepShape) -> None:
        """One decode step, in place."""

    def static_part(self, shape: StepShape) -> StepShape:
        """`shape` without what the launches of a step do not depend on."""


class EagerDecode:
    """Runs the step of torch's own operators; its launches depend on all of a shape."""

    name = "eager"

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
    made = why_not_triton(weights) or fused(weights, state)
    if not isinstance(made, str):
        return made
    if kernels == "triton":
        raise ValueError(f"kernels='triton' {made}; take 'auto' or 'eager'")
    logger.warning("the Triton kernels are left out: kernels='auto' %s", made)
    return EagerDecode(weights, state)


def fused(weights: StepWeights, state: DecodeState) -> Decode | str:
    """The fused step, tried out on the device; or why Triton can't run there.

    On a machine without a compiler for C, headers of Python or a folder for its cache, Triton is
    installed and yet no kernel runs.
    """
    from musicgen.engine.kernels.fused_step import FusedStep  # needs Triton

    try:
        return FusedStep(weights, state)
    except Exception as error:
        if is_out_of_memory(error) or is_broken_cuda(error):
            raise
        return f"needs a Triton that can run, and its first kernel ended as {error!r}"


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
