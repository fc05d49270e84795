"""Modules without values, into which a checkpoint's tensors are put."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class _NoInitialValues(TorchFunctionMode):
    """Leaves out what `torch.nn.init` would do to a new module's weights. On `meta` that does
    nothing anyway, but some of it imports torch's compiler, which takes seconds."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        named = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init":
            return named["tensor"] if "tensor" in named else args[0]
        return func(*args, **named)


@contextmanager
def unfilled(device: str = "meta") -> Iterator[None]:
    """Within this context new modules have no initial values, and the random state stays as it is.

    Args:
        device: `meta` gives them no memory either; `cpu` is for modules that compute with their
            weights when they are made, such as a weight norm, which is slow to begin on `meta`.
    """
    with torch.device(device), _NoInitialValues():
        yield
