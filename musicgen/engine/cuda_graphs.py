"""Launching a decode step: eagerly, or as a CUDA graph of its shape.

A GPU finishes most kernels of a step sooner than Python can launch the next one; a graph launches
all of them at once. `decode_step` depends on nothing but the step's shape and on tensors that stay
at their addresses, so one graph per shape is enough: one per 64 cache cells, times the few
combinations of sampling filters that clips ask for. With the Triton kernels one graph serves all
lengths (`musicgen.engine.kernels.fused_step`).
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

import torch

from musicgen.engine.kernels.select import Decode, EagerDecode, make_decode
from musicgen.engine.step import DecodeState, StepShape
from musicgen.engine.weights import StepWeights

MAX_GRAPHS = 256  # all lengths of a window with ten sampling filters; the least recent goes first

Step = Callable[[StepShape], None]


class Graph(Protocol):
    """A captured sequence of kernel launches."""

    def replay(self) -> None:
        """Launch it again."""


Capture = Callable[[Callable[[], None]], Graph]


class GraphedStep:
    """Runs a shape eagerly the first time, captures it the second time, then replays it.

    The eager run also lets libraries initialise themselves outside of the capture.

    Args:
        weights: The model.
        state: The rows; its tensors must keep their addresses until `forget`.
        capture: Records the kernels that a function launches, without running them.
        decode: What is launched; None takes the eager step.

    Attributes:
        kernels: `triton` or `eager`: what is launched.
    """

    def __init__(
        self,
        weights: StepWeights,
        state: DecodeState,
        capture: Capture,
        decode: Decode | None = None,
    ) -> None:
        self._capture, self._decode = capture, decode or EagerDecode(weights, state)
        self.kernels = self._decode.name
        self._graphs: OrderedDict[StepShape, Graph | None] = OrderedDict()

    def __call__(self, shape: StepShape) -> None:
        """One decode step."""
        shape = self._decode.static_part(shape)
        if shape not in self._graphs:
            self._decode(shape)
            self._graphs[shape] = None
            if len(self._graphs) > MAX_GRAPHS:
                self._graphs.popitem(last=False)
            return
        graph = self._graphs[shape]
        if graph is None:
            graph = self._capture(lambda: self._decode(shape))
            self._graphs[shape] = graph
        self._graphs.move_to_end(shape)
        graph.replay()

    def forget(self) -> None:
        """Drop all graphs: a tensor of the state was replaced."""
        self._graphs.clear()


class CudaCapture:
    """Captures CUDA graphs that share one memory pool.

    Other threads use the GPU meanwhile (codec, text encoder), so the capture restricts only the
    calls of this thread.
    """

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, launch: Callable[[], None]) -> Graph:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            launch()
        return graph


class EagerStep:
    """Launches every kernel of every step from Python; the alternative to `GraphedStep`."""

    def __init__(
        self, weights: StepWeights, state: DecodeState, decode: Decode | None = None
    ) -> None:
        self._decode = decode or EagerDecode(weights, state)
        self.kernels = self._decode.name

    @torch.inference_mode()
    def __call__(self, shape: StepShape) -> None:
        """One decode step."""
        self._decode(self._decode.static_part(shape))

    def forget(self) -> None:
        """Do nothing: an eager step keeps no graphs."""


def make_step(
    weights: StepWeights,
    state: DecodeState,
    *,
    graphs: bool | None = None,
    kernels: str = "auto",
) -> GraphedStep | EagerStep:
    """The function that runs steps over `state`.

    Args:
        weights: The model.
        state: The rows.
        graphs: Whether steps run as CUDA graphs; None where the model is on CUDA.
        kernels: `auto`, `triton` or `eager`, as `EngineOptions.kernels`.

    Raises:
        ValueError: `graphs` is True and the model is not on CUDA, or Triton can't run here.
    """
    on_cuda = weights.device.type == "cuda"
    if graphs and not on_cuda:
        raise ValueError("graphs=True needs CUDA; leave it out")
    decode = make_decode(weights, state, kernels)
    if on_cuda if graphs is None else graphs:
        return GraphedStep(weights, state, CudaCapture(), decode)
    return EagerStep(weights, state, decode)
