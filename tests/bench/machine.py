"""What the hardware can do, and the floor under a decode step that follows from it."""

import os
import platform
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from musicgen.config import LMConfig
from musicgen.engine.linear import DTYPES, can_pack, make_linear
from musicgen.registry import BYTES

ROWS_PER_CLIP = 2  # with single guidance
_PACKAGES = ("musicgen-batch", "torch", "transformers", "ray")


def describe() -> dict[str, Any]:
    """Machine and versions."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "gpu": gpu,
        "isa": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: version(name) for name in _PACKAGES},
    }


def _processor() -> str:
    """Its name; where that says little, as on virtual machines, family and model too."""
    facts: dict[str, str] = {}
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            facts.setdefault(key.strip(), value.strip())
    name = facts.get("model name") or platform.processor() or platform.machine()
    if "cpu family" in facts:
        name += f" (family {facts['cpu family']}, model {facts['model']})"
    return name


def step_bytes(lm: LMConfig, dtype: str, n_clips: int, n_tokens: int) -> int:
    """Bytes that a step must read, all in `dtype`: weights, and the caches of `n_clips` clips with
    guidance that are `n_tokens` long. Left out: keys and values of the text, a few tokens."""
    weights = step_parameters(lm)
    caches = ROWS_PER_CLIP * n_clips * n_tokens * 2 * lm.n_layers * lm.dim
    return BYTES[dtype] * (weights + caches)


def step_parameters(lm: LMConfig) -> int:
    """Parameters that a step multiplies with: layers without cross-attention's keys and values,
    which are made once per clip, and heads."""
    layer = 4 * lm.dim**2 + 2 * lm.dim * lm.ffn_dim
    if lm.fuse == "cross":
        layer += 2 * lm.dim**2
    return lm.n_layers * layer + lm.n_codebooks * lm.card * lm.dim


def floor_s(
    lm: LMConfig, dtype: str, n_clips: int, n_tokens: int, limits: dict[str, float]
) -> float:
    """Seconds that no step can beat: its bytes at read bandwidth or its products at GEMM peak."""
    flops = 2 * ROWS_PER_CLIP * n_clips * step_parameters(lm)
    read_s = step_bytes(lm, dtype, n_clips, n_tokens) / limits["bytes_per_s"]
    return max(read_s, flops / limits["flops_per_s"])


def limits(
    dtype: str, device: str = "cpu", *, megabytes: int = 1024, width: int = 2048
) -> dict[str, Any]:
    """Read bandwidth and GEMM peak of `device`, with torch's threads, the best of several tries.

    Args:
        dtype: Of the products.
        device: Where.
        megabytes: Of the buffer that is read; more than any cache.
        width: Of the square products.
    """
    tries = 5
    reads = _reads(device, megabytes)
    bandwidth = {
        name: megabytes * 1e6 * share / best_s(read, device, tries)
        for name, (read, share) in reads.items()
    }
    gemms = _gemms(dtype, device, width)
    peaks = {name: flops / best_s(run, device, tries) for name, (run, flops) in gemms.items()}
    return {
        "bytes_per_s": max(bandwidth.values()),
        "flops_per_s": max(peaks.values()),
        "bandwidth": bandwidth,
        "gemm": peaks,
    }


def _reads(device: str, megabytes: int) -> dict[str, tuple[Callable[[], object], float]]:
    """Ways to read a big buffer, each with the bytes that it moves per byte of the buffer."""
    buffer = torch.ones(megabytes * 250_000, device=device)  # float32
    found: dict[str, tuple[Callable[[], object], float]] = {"sum": (buffer.sum, 1.0)}
    if device == "cpu":
        matrix, vector = buffer[: len(buffer) // 4096 * 4096].view(-1, 4096), torch.ones(4096)
        found["matrix x vector"] = (lambda: matrix @ vector, matrix.numel() / len(buffer))
    else:
        other = torch.empty_like(buffer)
        found["copy"] = (lambda: other.copy_(buffer), 2.0)
    return found


def _gemms(dtype: str, device: str, width: int) -> dict[str, tuple[Callable[[], object], float]]:
    """Ways to multiply, each with its floating-point operations."""
    number, where = DTYPES[dtype], torch.device(device)
    square = torch.randn(width, width, device=device).to(number)
    found: dict[str, tuple[Callable[[], object], float]] = {
        "torch": (lambda: square @ square, 2.0 * width**3)
    }
    if can_pack(where):
        linear = make_linear(square, number, packed=True)
        for rows in (64, width // 4, width):
            found[f"packed, {rows} rows"] = (partial(linear, square[:rows]), 2.0 * rows * width**2)
    return found


def best_of(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """The higher limits of two measurements: others may have used the machine during one."""
    higher = {name: max(first[name], second[name]) for name in ("bytes_per_s", "flops_per_s")}
    return second | higher


def best_s(run: Callable[[], object], device: str, tries: int) -> float:
    """Seconds of the fastest of `tries` runs, after one that does not count."""
    return min(times_s(run, device, tries))


def times_s(run: Callable[[], object], device: str, tries: int, warm_up: int = 1) -> list[float]:
    """Seconds of each of `tries` runs."""
    found = []
    for _ in range(warm_up + tries):
        wait(device)
        started = time.perf_counter()
        run()
        wait(device)
        found.append(time.perf_counter() - started)
    return found[warm_up:]


def wait(device: str) -> None:
    """Until the device has done what it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
