"""CUDA tensors without a GPU: shapes, dtypes and devices are real, numbers are not.

Within `dry_run` everything on `cuda` is a fake tensor of torch. Operations on tensors of two
devices raise, and so does what would wait for the device (`.item()`, `bool(tensor)`, `nonzero`),
unless the run allows that. Launches and copies between host and device are written down, and so is
the stream that each of them goes to.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

_READS = ("aten._local_scalar_dense.default", "aten.is_nonzero.default")
_INDEXED = ("aten.index.Tensor", "aten.index_put_.default", "aten.index_put.default")
_COPIES = ("aten._to_copy.default", "aten.copy_.default")


class FakeEvent:
    """Stands for `torch.cuda.Event`."""

    def __init__(self, log: list[tuple[str, ...]]) -> None:
        self.log = log

    def record(self, stream: "FakeStream") -> None:
        """As CUDA's."""
        self.log.append(("record", stream.name))


class FakeStream:
    """Stands for `torch.cuda.Stream`: writes down what is asked of it."""

    def __init__(self, log: list[tuple[str, ...]], name: str, priority: int = 0) -> None:
        self.log, self.name, self.priority = log, name, priority

    def wait_stream(self, other: "FakeStream") -> None:
        """As CUDA's."""
        self.log.append(("wait stream", self.name, other.name))

    def wait_event(self, event: FakeEvent) -> None:
        """As CUDA's."""
        self.log.append(("wait event", self.name))

    def synchronize(self) -> None:
        """As CUDA's."""
        self.log.append(("synchronize", self.name))


@dataclass
class Found:
    """What happened in a dry run.

    Attributes:
        launches: Operators that do more than look at a tensor in another way: on CUDA each is a
            kernel at least.
        uploads: Copies from pageable memory of the host to the device, which wait for the device.
        pinned_uploads: Copies from pinned memory, which do not.
        downloads: Copies from the device to the host.
        reads: Numbers read from the device by Python.
        streams: What was asked of streams and events, in order.
        kept: Tensors whose memory was kept for another stream.
        on_stream: Launches by the name of the stream that they went to.
    """

    launches: list[str] = field(default_factory=list)
    uploads: list[str] = field(default_factory=list)
    pinned_uploads: list[str] = field(default_factory=list)
    downloads: list[str] = field(default_factory=list)
    reads: list[str] = field(default_factory=list)
    streams: list[tuple[str, ...]] = field(default_factory=list)
    kept: int = 0
    on_stream: dict[str, int] = field(default_factory=dict)

    @property
    def waits(self) -> list[str]:
        """Everything for which the host waits for the device."""
        return self.uploads + self.downloads + self.reads

    def clear(self) -> None:
        """Forget what happened so far."""
        for value in vars(self).values():
            if not isinstance(value, int):
                value.clear()
        self.kept = 0


class _Watch(TorchDispatchMode):
    def __init__(self, found: Found, current: list[FakeStream], allow_reads: bool) -> None:
        super().__init__()
        self.found, self.current, self.allow_reads = found, current, allow_reads

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, str(func)
        on_device = _on_device(args) or _on_device(kwargs.values())
        if name in _READS and on_device:
            self.found.reads.append(name)
            if self.allow_reads:
                return True if args[0].dtype == torch.bool else 1
        out = func(*args, **kwargs)
        moves = name.startswith("aten.to.") and out is not args[0]
        if name in _COPIES or moves:
            source, target = (args[1], args[0]) if name == _COPIES[1] else (args[0], out)
            self._copy(name, source, target, non_blocking=_non_blocking(name, args, kwargs))
        elif (
            on_device and name in _INDEXED and any(not i.is_cuda for i in args[1] if i is not None)
        ):
            self.found.uploads.append(f"{name} by an index of the host")
        on_device = on_device or (isinstance(out, Tensor) and out.is_cuda)
        views = func.is_view or "_unsafe_view" in name or name.startswith("prim.")
        if on_device and (moves or not views) and name not in _READS:
            self.found.launches.append(name)
            stream = self.current[-1].name
            self.found.on_stream[stream] = self.found.on_stream.get(stream, 0) + 1
        return out

    def _copy(self, name: str, source: Tensor, target: Tensor, *, non_blocking: bool) -> None:
        what = f"{name} {tuple(source.shape)}"
        if target.is_cuda and not source.is_cuda:
            if getattr(source, "is_pinned_here", False) and non_blocking:
                self.found.pinned_uploads.append(what)
            elif source.dim() or name != _COPIES[1]:  # copy_ of one number is a fill
                self.found.uploads.append(what)
        elif source.is_cuda and not target.is_cuda:
            self.found.downloads.append(what)


def _on_device(values: Any) -> bool:
    return any(
        (isinstance(value, Tensor) and value.is_cuda)
        or (isinstance(value, list | tuple) and _on_device(value))
        for value in values
    )


def _non_blocking(name: str, args: Any, kwargs: Any) -> bool:
    """Whether a copy was asked not to wait; `aten.to` takes that by place or by name."""
    by_place = args[2:3] if name == _COPIES[1] else args[2:] if name.startswith("aten.to.") else ()
    return bool(kwargs.get("non_blocking", False)) or any(each is True for each in by_place)


class _Pinning(TorchFunctionMode):
    """Pinned memory, which fake tensors do not know, and views of it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.Tensor.pin_memory:
            pinned = args[0].view_as(args[0])
            pinned.is_pinned_here = True
            return pinned
        if kwargs.pop("pin_memory", False):
            made = func(*args, **kwargs)
            made.is_pinned_here = True
            return made
        return func(*args, **kwargs)


@contextmanager
def dry_run(*, allow_reads: bool = False) -> Iterator[Found]:
    """A context in which `torch.device("cuda")` can be used without a GPU.

    Args:
        allow_reads: Whether reading a number from the device is written down instead of refused; it
            is then 1, or true.
    """
    found = Found()
    default = FakeStream(found.streams, "default")
    current = [default]
    made: list[FakeStream] = []

    def stream(device: Any = None, priority: int = 0) -> FakeStream:
        made.append(FakeStream(found.streams, f"stream {len(made)}", priority))
        return made[-1]

    @contextmanager
    def on(stream: FakeStream) -> Iterator[None]:
        current.append(stream)
        try:
            yield
        finally:
            current.pop()

    def keep(tensor: Tensor, stream: FakeStream) -> None:
        found.kept += 1

    cuda = {
        "Stream": stream,
        "Event": lambda: FakeEvent(found.streams),
        "stream": on,
        "current_stream": lambda device=None: current[-1],
        "empty_cache": lambda: None,
        "synchronize": lambda device=None: found.reads.append("synchronize"),
    }
    with (
        patch.multiple(torch.cuda, **cuda),
        patch.object(torch.Tensor, "record_stream", keep),
        torch.backends.cudnn.flags(enabled=False),  # its LSTM asks the driver
        FakeTensorMode(allow_non_fake_inputs=True),
        _Pinning(),
        _Watch(found, current, allow_reads),
    ):
        yield found
