"""Streams and the capture of graphs on CUDA. On other devices a stream does nothing, and work runs
in the order of its calls."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch

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
