"""What an error of a device means: too little memory, or a device that computes no more."""

from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")

# CUDA says "out of memory" in more than one class of errors: of pinned host memory and of graphs
# too, which torch reports as plain CUDA errors.
_NO_MEMORY = (
    *("can't allocate memory", "not enough memory", "cuda out of memory"),
    *("cuda error: out of memory", "cublas_status_alloc_failed"),
)
_BROKEN = ("cuda error", "cudnn error", "device-side assert")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or the host had no memory left for what was asked."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return any(words in text for words in _NO_MEMORY)


def is_broken_cuda(error: BaseException) -> bool:
    """Whether every further CUDA call of this process will fail, so that the process must go."""
    if is_out_of_memory(error):
        return False
    text = str(error).lower()
    return isinstance(error, torch.AcceleratorError) or any(words in text for words in _BROKEN)


def without_frames(error: BaseException) -> BaseException:
    """The error without its tracebacks, whose frames keep alive what they worked on."""
    seen: BaseException | None = error
    while seen is not None:
        seen.__traceback__ = None
        seen = seen.__cause__ or seen.__context__
    return error


def retried_with_memory(action: Callable[[], T], smaller: Callable[[], T] | None = None) -> T:
    """The result of `action`. Where memory runs out it is tried again with the allocator's cache
    emptied, and then `smaller`, which wants less memory for the same, is tried.

    Raises:
        Exception: What the last of them raised, and any other error of the first.
    """
    for attempt in (action, action):
        try:
            return attempt()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            failed = error
        # Behind the except clause, so that no frame of the failed attempt holds memory.
        without_frames(failed)
        torch.cuda.empty_cache()  # nothing, where this process uses no GPU
    if smaller is None:
        raise failed
    return smaller()
