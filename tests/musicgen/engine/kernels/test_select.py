"""Which step runs where, and how the kernels are launched on which GPU."""

import subprocess
import sys

import pytest
import torch

from musicgen.engine.cuda_graphs import make_step
from musicgen.engine.engine import Engine, EngineOptions
from musicgen.engine.kernels import select
from musicgen.engine.kernels.select import EagerDecode, make_decode
from musicgen.engine.kernels.table import CONFIGURATIONS, SPLIT, configuration
from musicgen.engine.step import DecodeState, StepShape
from musicgen.engine.weights import StepWeights, prepare
from musicgen.lm.sampling import FilterShape
from tests.musicgen.toy import toy_lm


@pytest.fixture(scope="module")
def plain() -> tuple[StepWeights, DecodeState]:
    weights = prepare(toy_lm("cross", dim=32), "fp32", 64, packed=False)
    return weights, DecodeState.idle(weights, 2, 64, 10)


@pytest.mark.parametrize("kernels", ["auto", "eager"])
def test_a_cpu_runs_the_eager_step(plain: tuple[StepWeights, DecodeState], kernels: str) -> None:
    decode = make_decode(*plain, kernels)
    assert isinstance(decode, EagerDecode)
    shape = StepShape(64, 64, 2, 2, FilterShape())
    assert decode.static_part(shape) is shape


def test_triton_is_refused_where_it_cannot_run(
    plain: tuple[StepWeights, DecodeState], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="kernels='fast' must be one of auto, triton, eager"):
        make_decode(*plain, "fast")
    lm = toy_lm("cross", dim=32)
    packed = prepare(lm, "fp32", 64, packed=True)
    with pytest.raises(ValueError, match=r"linear layers that are not packed.*take 'auto'"):
        make_step(packed, DecodeState.idle(packed, 2, 64, 10), kernels="triton")
    monkeypatch.setattr(select, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match="the package triton"):
        Engine(lm, EngineOptions(slots=1, max_frames=4, packed=False, kernels="triton"))


def test_triton_needs_a_gpu_or_its_interpreter(plain: tuple[StepWeights, DecodeState]) -> None:
    pytest.importorskip("triton")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ValueError, match=r"a CUDA GPU, or Triton's interpreter \(TRITON_INT"):
        make_decode(*plain, "triton")


def test_a_triton_that_does_not_run_is_left_out_with_a_warning(
    plain: tuple[StepWeights, DecodeState],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As on a GPU where Triton finds no C compiler; here it finds no GPU."""
    pytest.importorskip("triton")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.setattr(select, "why_not_triton", lambda _: None)
    with pytest.raises(ValueError, match=r"its first kernel ended as RuntimeError.*driver"):
        make_decode(*plain, "triton")
    with monkeypatch.context() as patch:
        patch.setattr(StepWeights, "device", torch.device("cuda"))
        patch.setattr(select, "fused", lambda *_: "needs a Triton that can run")
        assert make_decode(*plain, "auto").name == "eager"
    assert "left out: kernels='auto' needs a Triton that can run" in caplog.text


def test_a_gpu_gets_the_newest_configuration_that_is_not_newer_than_itself() -> None:
    for capability, known in [(80, 80), (86, 80), (89, 80), (90, 90), (100, 100), (120, 100)]:
        assert configuration(capability) is CONFIGURATIONS[known]
    with pytest.raises(ValueError, match=r"compute capability 7.5: the Triton kernels need 8\.0"):
        configuration(75)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("head_dim", [12, 16, 64, 128])
def test_tiles_are_powers_of_two_and_divide_a_split(dtype: torch.dtype, head_dim: int) -> None:
    cache = torch.zeros(1, 1, 1, head_dim, dtype=dtype)
    for known in CONFIGURATIONS.values():
        tile = known.tile_cells(cache)
        assert 16 <= tile <= SPLIT
        assert SPLIT % tile == 0


@pytest.mark.slow
def test_the_engine_on_a_cpu_loads_no_triton() -> None:
    """Where Triton is not installed, nothing misses it."""
    program = (
        "import sys; sys.modules['triton'] = None\n"
        "from tests.musicgen.toy import toy_lm\n"
        "from musicgen.engine.engine import Engine, EngineOptions\n"
        "for packed in (None, False):\n"
        "    Engine(toy_lm('cross', dim=32), EngineOptions(1, 4, packed=packed)).step()\n"
        "assert 'musicgen.engine.kernels.select' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
