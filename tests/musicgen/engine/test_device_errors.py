"""What errors of a device mean, and that memory is free before something is tried again."""

import weakref
from typing import Any

import pytest
import torch

from musicgen.engine.device_errors import (
    is_broken_cuda,
    is_out_of_memory,
    retried_with_memory,
    without_frames,
)
from musicgen.engine.engine import Engine, EngineOptions
from musicgen.engine.runner import Runner
from tests.musicgen.toy import toy_lm

MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    MemoryError(),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    torch.AcceleratorError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
]
BROKEN = [
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    torch.AcceleratorError("CUDA error: device-side assert triggered"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    RuntimeError("a device-side assert was triggered"),
]


def test_out_of_memory_a_broken_device_and_other_errors_are_told_apart() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60)
    for error in [*MEMORY, caught.value]:
        assert (is_out_of_memory(error), is_broken_cuda(error)) == (True, False), error
    for error in BROKEN:
        assert (is_out_of_memory(error), is_broken_cuda(error)) == (False, True), error
    other = RuntimeError("shapes do not match")
    assert not is_out_of_memory(other)
    assert not is_broken_cuda(other)


class Attempts:
    """Work that runs out of memory a number of times, with a tensor in the frame that raises."""

    def __init__(self, failures: int, error: Exception) -> None:
        self.failures, self.error, self.held = failures, error, []

    def __call__(self) -> int:
        assert all(tensor() is None for tensor in self.held), "an earlier attempt holds memory"
        large = torch.zeros(100)
        self.held.append(weakref.ref(large))
        if len(self.held) <= self.failures:
            raise self.error
        return len(self.held)


@pytest.mark.parametrize("error", MEMORY, ids=lambda error: type(error).__name__)
def test_work_is_tried_again_once_its_memory_is_free(error: Exception) -> None:
    assert retried_with_memory(Attempts(1, error)) == 2
    twice = Attempts(2, error)
    assert retried_with_memory(twice, lambda: "smaller" if twice() else "") == "smaller"
    with pytest.raises(type(error)):
        retried_with_memory(Attempts(2, error))


def test_other_errors_are_not_tried_again() -> None:
    work = Attempts(1, ValueError("the row's fault"))
    with pytest.raises(ValueError, match="the row's fault"):
        retried_with_memory(work)
    assert len(work.held) == 1


def test_no_error_of_a_chain_keeps_frames() -> None:
    def fail() -> None:
        try:
            raise MemoryError("inner")
        except MemoryError as inner:
            raise RuntimeError("outer") from inner

    with pytest.raises(RuntimeError) as caught:
        fail()
    error = without_frames(caught.value)
    assert error.__traceback__ is None
    assert error.__cause__ is not None
    assert error.__cause__.__traceback__ is None


def test_generate_frees_the_old_engine_before_it_makes_the_next() -> None:
    lm, made = toy_lm("cross"), []

    def make(slots: int) -> Any:
        assert all(cache() is None for cache in made)
        engine = Engine(lm, EngineOptions(slots=slots, max_frames=10))
        made.append(weakref.ref(engine.state.caches[0].keys))
        return engine

    from tests.musicgen.engine.test_engine import request

    runner = Runner(make)
    runner.run([request("a")], 3, None)
    runner.run([request("b"), request("c"), request("d")], 3, None)
    assert len(made) == 2
