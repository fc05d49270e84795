"""What exists on CUDA alone: streams, capture, and numerics that repeat. On other devices each of
them does nothing, and work runs in the order of its calls.

An engine launches its steps on a stream of high priority of its own; T5 and the codec have one of
low priority each. Tensors cross from one to another by an event that the receiver waits for.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

MOST_URGENT = -100  # CUDA takes the nearest priority that the device has; 0 is the lowest


class Graph(Protocol):
    """A captured sequence of kernel launches."""

    def replay(self) -> None:
        """Launch it again."""


class DeviceStream:
    """A stream of one device.

    Args:
        device: Where.
        urgent: Whether its kernels go before those of streams that are not urgent.
    """

    def __init__(self, device: torch.device, *, urgent: bool = False) -> None:
        self._stream: Any = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(  # type: ignore[no-untyped-call]
                device, priority=MOST_URGENT if urgent else 0
            )
            # What was launched before, such as the copy of weights, is done before its work.
            self._stream.wait_stream(torch.cuda.current_stream(device))

    @contextmanager
    def running(self) -> Iterator[None]:
        """A context whose work, of this thread, goes to the stream and to its device."""
        if self._stream is None:
            yield
            return
        with torch.cuda.stream(self._stream):
            yield

    def receive(self, tensors: Iterable[Tensor | None], ready: Any) -> None:
        """Let the stream's further work use tensors that another one makes.

        Args:
            tensors: Whose memory is kept until that work is done, also if nobody holds them.
            ready: What `mark` gave after the last of them was launched; None: they are there.
        """
        if self._stream is None:
            return
        if ready is not None:
            self._stream.wait_event(ready)
        for tensor in tensors:
            if tensor is not None and tensor.is_cuda:
                tensor.record_stream(self._stream)

    def synchronize(self) -> None:
        """Wait until the device has done the stream's work."""
        if self._stream is not None:
            self._stream.synchronize()

    def capture(self, launch: Callable[[], None], pool: Any) -> Graph:
        """The graph of what `launch` launches, whose memory comes from `pool`.

        Other threads use the device meanwhile, so the capture restricts only the calls of this one.
        """
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(
            graph, pool=pool, stream=self._stream, capture_error_mode="thread_local"
        ):
            launch()
        return graph


def mark(device: torch.device) -> Any:
    """An event after what this thread has launched so far; None where nothing is asynchronous."""
    if device.type != "cuda":
        return None
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    return event


def use_repeatable_numerics(on: bool = True) -> None:
    """Let products and convolutions of this process give the same bits again, or as fast as can be.

    Repeatable: convolutions in full float32 by algorithms that do not race, half-precision products
    summed in float32 and not split along the sum (split-K), for which the libraries get no
    workspace. So a row of a product may have the same bits among any number of rows, which
    `invariance` then looks at. `make gpu-check` measures the price.
    """
    torch.backends.cudnn.allow_tf32 = not on
    torch.backends.cudnn.deterministic = on
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.matmul.allow_tf32 = False
    matmul, sizes = torch.backends.cuda.matmul, WORKSPACES
    for name in ("fp16", "bf16"):
        switch = f"allow_{name}_reduced_precision_reduction"
        try:
            setattr(matmul, switch, (not on, not on))
        except TypeError:  # torch before 2.10 knows no second switch
            setattr(matmul, switch, not on)
    for name in ("cublas_workspace_size", "cublaslt_workspace_size"):
        resize = getattr(torch.backends.cuda, name, None)
        if resize is None:  # torch before 2.14: see what CUBLAS_WORKSPACE_CONFIG does
            continue
        if name not in sizes:
            sizes[name] = resize()
        resize(0 if on else sizes[name])


WORKSPACES: dict[str, int] = {}  # bytes that torch gives the libraries of its own accord
