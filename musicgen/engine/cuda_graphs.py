"""Launching a decode step: eagerly, or as a CUDA graph of its shape.

A GPU finishes most kernels of a step sooner than Python can launch the next one; a graph launches
all of them at once. `decode_step` depends on nothing but the step's shape and on tensors that stay
at their addresses, so one graph per shape is enough: one per 64 cache cells, times the few
combinations of sampling filters that clips ask for. With the Triton kernels one graph serves all
lengths (`musicgen.engine.kernels.fused_step`).
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol

import torch

from musicgen.engine.cuda import DeviceStream, Graph
from musicgen.engine.kernels.select import Decode, EagerDecode, make_decode
from musicgen.engine.step import DecodeState, StepShape
from musicgen.engine.weights import StepWeights

MAX_GRAPHS = 256  # all lengths of a window with ten sampling filters; the least recent goes first

Step = Callable[[StepShape], None]


class Capture(Protocol):
    """Records the kernels that a function launches, without running them."""

    def __call__(self, launch: Callable[[], None]) -> Graph:
        """The graph of what `launch` launches."""

    def forget(self) -> None:
        """All graphs so far are gone: give the memory behind them back."""


class GraphedStep:
    """Runs a shape eagerly the first time, captures it the second time, then replays it.

    The eager run also lets libraries initialise themselves outside of the capture.

    Args:
        weights: The model.
        state: The rows; its tensors must keep their addresses until `forget`.
        capture: Makes the graphs.
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

    @property
    def n_graphs(self) -> int:
        """Shapes that were captured and are kept."""
        return sum(graph is not None for graph in self._graphs.values())

    def forget(self) -> None:
        """Drop all graphs: a tensor of the state was replaced."""
        self._graphs.clear()
        self._capture.forget()


class CudaCapture:
    """Captures CUDA graphs that share one memory pool, on the stream of their engine: torch keeps
    a workspace for products per stream, which graphs of different engines must not share."""

    def __init__(self, stream: DeviceStream) -> None:
        self._stream = stream
        self._pool: Any = None

    def __call__(self, launch: Callable[[], None]) -> Graph:
        """The graph of what `launch` launches."""
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        return self._stream.capture(launch, self._pool)

    def forget(self) -> None:
        """The next graph gets a pool of its own, and the old one's memory is free."""
        self._pool = None


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
    stream: DeviceStream | None = None,
) -> GraphedStep | EagerStep:
    """The function that runs steps over `state`.

    Args:
        weights: The model.
        state: The rows.
        graphs: Whether steps run as CUDA graphs; None where the model is on CUDA.
        kernels: `auto`, `triton` or `eager`, as `EngineOptions.kernels`.
        stream: On which graphs are captured: that of the work over `state`; None takes a new one.

    Raises:
        ValueError: `graphs` is True and the model is not on CUDA, or Triton can't run here.
    """
    on_cuda = weights.device.type == "cuda"
    if graphs and not on_cuda:
        raise ValueError("graphs=True needs CUDA; leave it out")
    decode = make_decode(weights, state, kernels)
    if on_cuda if graphs is None else graphs:
        capture = CudaCapture(stream or DeviceStream(weights.device))
        return GraphedStep(weights, state, capture, decode)
    return EagerStep(weights, state, decode)
