"""The one place of CUDA-only code: the switch of the numerics, and what it is on other devices."""

from collections.abc import Iterator

import pytest
import torch

from musicgen.engine.cuda import DeviceStream, mark, use_repeatable_numerics

CPU = torch.device("cpu")


@pytest.fixture
def workspaces(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, int]]:
    """The sizes that torch would give the libraries; all switches are as before afterwards."""
    sizes = {"cublas_workspace_size": 4096, "cublaslt_workspace_size": 1024}

    def resizer(name: str) -> object:
        def resize(size: int | None = None) -> int:
            sizes[name] = sizes[name] if size is None else size
            return sizes[name]

        return resize

    for name in sizes:
        monkeypatch.setattr(torch.backends.cuda, name, resizer(name), raising=False)
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    flags = ("allow_tf32", "deterministic", "benchmark")
    before = {flag: getattr(cudnn, flag) for flag in flags}
    halves = ("allow_fp16_reduced_precision_reduction", "allow_bf16_reduced_precision_reduction")
    sums = {flag: getattr(matmul, flag) for flag in halves}
    yield sizes
    for flag, value in before.items():
        setattr(cudnn, flag, value)
    for flag, value in sums.items():
        setattr(matmul, flag, value)


def test_one_switch_for_everything_that_does_not_repeat(workspaces: dict[str, int]) -> None:
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    for on in (True, False, True):
        use_repeatable_numerics(on)
        assert cudnn.allow_tf32 is not on
        assert cudnn.deterministic is on
        assert not cudnn.benchmark
        assert not matmul.allow_tf32
        assert matmul.allow_fp16_reduced_precision_reduction is not on
        assert matmul.allow_bf16_reduced_precision_reduction is not on
        assert (workspaces["cublas_workspace_size"] == 0) is on
        assert (workspaces["cublaslt_workspace_size"] == 0) is on


def test_on_a_cpu_a_stream_is_the_order_of_the_calls() -> None:
    stream = DeviceStream(CPU, urgent=True)
    with stream.running():
        x = torch.ones(3) + 1
    stream.receive([x, None], mark(CPU))
    stream.synchronize()
    assert mark(CPU) is None
    assert x.tolist() == [2.0, 2.0, 2.0]
