"""Every kernel compiles for the GPUs of the table, as a step of a released model launches it there.

A step over tensors without data (`meta`) launches the kernels, which are recorded instead; Triton
and the assembler that it brings compile them without a GPU.
"""

import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource, CompiledKernel
from triton.runtime.jit import JITFunction, mangle_type

from musicgen.config import LMConfig
from musicgen.engine.kernels.fused_step import FusedStep
from musicgen.engine.kernels.table import CONFIGURATIONS
from musicgen.engine.step import DecodeState, StepShape
from musicgen.engine.weights import prepare
from musicgen.lm.model import LMModel
from musicgen.lm.sampling import FilterShape

# One layer of musicgen-medium, whose width is no power of two.
MEDIUM = LMConfig(1536, 24, 1, 6144, 4, 2048, (0, 1, 2, 3), 768, "cross")
N_CELLS = 1536
CASES = [
    *(pytest.param(at, "bf16", id=f"{at}-bf16") for at in CONFIGURATIONS),
    *(pytest.param(at, "fp16", marks=pytest.mark.long, id=f"{at}-fp16") for at in CONFIGURATIONS),
    pytest.param(90, "fp32", marks=pytest.mark.long, id="90-fp32"),
    pytest.param(90, "fp16 int8", id="90-fp16-int8"),
    *(
        pytest.param(at, f"{dtype} int8", marks=pytest.mark.long, id=f"{at}-{dtype}-int8")
        for at, dtype in [(80, "fp16"), (100, "fp16"), (80, "bf16"), (90, "bf16"), (90, "fp32")]
    ),
]
KERNELS = {
    *("_embed_row", "_attend_split", "_join_splits", "_attend_text", "_add_and_norm_row"),
    *("_gelu_block", "_decide_token"),
}


class Launch(NamedTuple):
    """What a launch of a kernel is compiled from."""

    kernel: JITFunction
    signature: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, Any], ...]
    options: tuple[tuple[str, Any], ...]


def recorded(kernel: JITFunction, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Launch:
    named = dict(zip(kernel.arg_names, args, strict=False))
    constants = {name: kwargs[name] for name in kernel.arg_names if name in kwargs}
    signature = {name: mangle_type(arg) for name, arg in named.items()}
    signature |= dict.fromkeys(constants, "constexpr")
    options = {name: kwargs[name] for name in ("num_warps", "enable_fp_fusion") if name in kwargs}
    parts = (signature, constants, options)
    return Launch(kernel, *(tuple(part.items()) for part in parts))


@torch.no_grad()
def launches(capability: int, dtype: str) -> set[Launch]:
    """What one step launches on that GPU in that format."""
    found: set[Launch] = set()

    def record(kernel: JITFunction, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        assert all(0 < size < 65536 for size in grid)
        found.add(recorded(kernel, args, kwargs))

    with torch.device("meta"):
        lm = LMModel(MEDIUM)
    dtype, _, rounded = dtype.partition(" ")
    lm.int8 = bool(rounded)
    weights = prepare(lm, dtype, N_CELLS)
    state = DecodeState.idle(weights, 16, N_CELLS, 1504)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JITFunction, "run", record)
        step = FusedStep(weights, state, CONFIGURATIONS[capability])
        step(step.static_part(StepShape(64, 64, 16, 16, FilterShape())))
    return found


def compiled(launch: Launch, capability: int) -> CompiledKernel:
    """The launch for that GPU, its tensors aligned as torch's are."""
    names = launch.kernel.arg_names
    source = ASTSource(
        launch.kernel,
        signature=dict(launch.signature),
        constexprs={(names.index(name),): value for name, value in launch.constants},
        attrs={
            (names.index(name),): [["tt.divisibility", 16]]
            for name, kind in launch.signature
            if kind.startswith("*")
        },
    )
    target = GPUTarget("cuda", capability, 32)
    return triton.compile(source, target=target, options=dict(launch.options))


def spilled(kernel: CompiledKernel, capability: int, folder: Path) -> str:
    """What the assembler says about registers that do not fit."""
    ptx = folder / f"{kernel.name}.ptx"
    ptx.write_text(kernel.asm["ptx"])
    arch = f"sm_{capability}{'a' if capability >= 90 else ''}"
    command = [
        get_ptxas(capability).path,
        "-v",
        f"--gpu-name={arch}",
        ptx,
        "-o",
        ptx.with_suffix(""),
    ]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    return next(line for line in said.splitlines() if "spill" in line)


@pytest.mark.slow
@pytest.mark.parametrize(("capability", "dtype"), CASES)
def test_every_kernel_compiles(capability: int, dtype: str, tmp_path: Path) -> None:
    names = set()
    for launch in launches(capability, dtype):
        kernel = compiled(launch, capability)
        assert f".target sm_{capability}" in kernel.asm["ptx"]
        assert len(kernel.asm["cubin"]) > 1000
        names.add(kernel.name)
        if kernel.name in ("_attend_split", "_int8_product"):
            assert "0 bytes spill stores" in spilled(kernel, capability, tmp_path)
        if kernel.name == "_decide_token":  # mixes logits as separate kernels would
            assert "fma.rn.f32" not in kernel.asm["ptx"]
    assert names == KERNELS | ({"_int8_product"} if "int8" in dtype else set())
