"""The whole CUDA path on fake tensors: no step mixes devices, waits for the host or copies.

That the dry run finds such faults is tested with planted ones.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    FakeTensorDeviceMismatchError,
)
from transformers import EncodecConfig, T5Config

from musicgen.codec.codec import CompressionModel
from musicgen.codec.encodec import Encodec
from musicgen.conditioning.fuser import ClipConditions
from musicgen.conditioning.style import StyleConditioner
from musicgen.conditioning.t5 import T5Encoder
from musicgen.config import SamplingParams
from musicgen.engine import engine as engine_module
from musicgen.engine import step as step_module
from musicgen.engine.cuda import DeviceStream, mark
from musicgen.engine.cuda_graphs import EagerStep
from musicgen.engine.engine import Engine, EngineOptions, Request
from musicgen.engine.request import WindowStart
from musicgen.engine.step import StepShape, decode_step, round_up
from musicgen.lm.int8 import round_to_int8
from musicgen.lm.model import LMModel
from tests.bench.shapes import SHAPES
from tests.gpu.dry_run import dry_run
from tests.musicgen.toy import KINDS, Kind, toy_kind

CUDA = torch.device("cuda")
# What an admission launches beside the layers and per layer, and its copies, which do not wait: 130
# launches for musicgen-small. Before, it was 277 and 118 copies for which the host waited.
ADMISSION_BESIDE, ADMISSION_PER_LAYER, ADMISSION_COPIES = 45, {"text": 4, "melody": 33}, 2
STEP_BESIDE = 75  # launches of a step that do not grow with the layers
STEP_PER_LAYER = {"text": 31, "stereo": 31, "melody": 20, "style": 20}


def clip(lm: LMModel, key: str, **given: Any) -> Request:
    """A clip whose conditions are on the device, as the text encoder leaves them."""
    dim, n_audio = lm.cfg.dim, lm.cfg.max_audio_frames
    audio = torch.zeros(n_audio, dim, device=CUDA) if n_audio else None
    sampling = SamplingParams(cfg_coef_beta=2.0 if lm.cfg.style is not None else None)
    conditions = ClipConditions(torch.zeros(5, dim, device=CUDA), audio, audio)
    return Request(key, conditions, 12, 1, sampling, **given)


def engine_of(lm: LMModel, dtype: str = "fp16") -> Engine:
    options = EngineOptions(slots=2, max_frames=12, dtype=dtype, graphs=False, kernels="eager")
    return Engine(lm, options)


@torch.no_grad()
def launches_of_a_step(kind: Kind, n_layers: int) -> int:
    """Runs a step with every filter; the host must not wait."""
    lm = toy_kind(kind, dim=32)
    with dry_run() as found:
        engine = engine_of(lm.to(CUDA))
        layers = engine.weights.layers[:1] * n_layers
        for caches in (engine.state.caches, engine.state.cross_caches):
            caches[:] = caches[:1] * n_layers
        weights = replace(engine.weights, layers=layers)
        filters = replace(engine.shape.filters, draws=True, max_top_k=256)
        found.clear()
        decode_step(weights, engine.state, replace(engine.shape, filters=filters, double=False))
        assert found.waits == []
        assert found.pinned_uploads == []
        return len(found.launches)


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_never_waits_and_launches_few_kernels(kind: Kind) -> None:
    two, four = (launches_of_a_step(kind, n) for n in (2, 4))
    per_layer = (four - two) / 2
    assert per_layer <= STEP_PER_LAYER[kind]
    assert two - 2 * per_layer <= STEP_BESIDE


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_the_engine_steps_in_every_number_format(dtype: str) -> None:
    lm = toy_kind("text", dim=32)
    with dry_run() as found:
        engine = engine_of(lm.to(CUDA), dtype)
        engine.submit(clip(lm, "a"))
        engine.step()
        engine.submit(clip(lm, "b"))
        engine.step()
        found.clear()
        engine.step()
        assert found.waits == []
        assert engine.n_active == 2
        engine.cancel("a")
        engine.step()
        assert engine.n_active == 1


@torch.no_grad()
def test_weights_in_int8_are_used_on_the_device_as_they_are() -> None:
    lm = toy_kind("text", dim=32)
    round_to_int8(lm)
    with dry_run() as found:
        engine = engine_of(lm.to(CUDA))
        assert engine.weights.layers[0].tensors.linear1.values.is_cuda
        engine.submit(clip(lm, "a"))
        engine.step()
        found.clear()
        engine.step()
        assert found.waits == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_and_a_long_text_enter(kind: Kind) -> None:
    lm = toy_kind(kind, dim=32)
    with dry_run() as found:
        engine = engine_of(lm.to(CUDA))
        given = clip(lm, "a")
        text = torch.zeros(100, lm.cfg.dim, device=CUDA)
        codes = torch.zeros(lm.cfg.n_codebooks, 4, dtype=torch.int64)
        request = replace(given, conditions=replace(given.conditions, text=text))
        engine.scheduler.submit(replace(request, prompt_codes=codes))
        engine.step()
        assert engine.n_active == 1
        assert found.reads == []
        assert found.downloads == []


@torch.no_grad()
def launches_of_an_admission(kind: Kind, n_layers: int) -> int:
    """Admits a clip with guidance, prepared as in the conditioner's thread; the host must not
    wait."""
    lm = toy_kind(kind, dim=32)
    lm = type(lm)(replace(lm.cfg, n_layers=n_layers)).eval()
    with dry_run() as found:
        engine = engine_of(lm.to(CUDA))
        request = clip(lm, "a")
        start = WindowStart.of(lm.cfg, 1, request.plan[0], None, CUDA)
        request = replace(request, sampling=SamplingParams(), start=start, ready=mark(CUDA))
        engine.submit(request)
        shape_only: list[StepShape] = []
        engine.run_step = shape_only.append  # type: ignore[assignment]
        found.clear()
        engine.step()
        assert engine.n_active == len(shape_only) == 1
        assert found.waits == []
        assert len(found.pinned_uploads) <= ADMISSION_COPIES
        return len(found.launches)


@pytest.mark.parametrize("kind", ["text", "melody"])
def test_an_admission_never_waits_and_launches_few_kernels(kind: Kind) -> None:
    two, four = (launches_of_an_admission(kind, n) for n in (2, 4))
    per_layer = (four - two) / 2
    assert per_layer <= ADMISSION_PER_LAYER[kind]
    assert two - 2 * per_layer <= ADMISSION_BESIDE


def test_the_engine_has_an_urgent_stream_that_waits_for_conditions() -> None:
    lm = toy_kind("text", dim=32)
    with dry_run() as found:
        lm.to(CUDA)
        side = DeviceStream(CUDA)
        engine = engine_of(lm)
        side_name, own_name = "stream 0", "stream 1"
        assert [told[:2] for told in found.streams] == [
            ("wait stream", side_name),
            ("wait stream", own_name),
        ]
        found.clear()
        with side.running():
            request = replace(clip(lm, "a"), ready=mark(CUDA))
        assert found.streams == [("record", side_name)]
        assert set(found.on_stream) == {side_name}
        engine.submit(request)
        found.clear()
        engine.step()
        assert found.streams == [("wait event", own_name)]
        assert found.kept == 1  # the text
        assert set(found.on_stream) == {own_name}
        engine.close()
        assert found.streams[-1] == ("synchronize", own_name)


def test_what_the_kernels_need_is_made_on_the_engines_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else their first launch could come before it is there."""
    names: list[str] = []

    def make(*args: Any, **kwargs: Any) -> EagerStep:
        names.append(torch.cuda.current_stream().name)  # type: ignore[attr-defined]
        return EagerStep(*args)

    monkeypatch.setattr(engine_module, "make_step", make)
    lm = toy_kind("text", dim=32)
    with dry_run():
        engine_of(lm.to(CUDA))
    assert names == ["stream 0"]


def test_conditions_made_by_the_submitting_thread_are_waited_for() -> None:
    lm = toy_kind("text", dim=32)
    with dry_run() as found:
        engine = engine_of(lm.to(CUDA))
        request = clip(lm, "a")
        found.clear()
        engine.submit(request)
        assert found.streams == [("record", "default")]
        engine.cancel("a")
        assert found.waits == []


def planted(fault: Callable[[torch.Tensor], object]) -> Callable[..., torch.Tensor]:
    """`_column` of the step with a fault in it."""
    column = step_module.mix

    def mix(logits: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        fault(logits)
        return column(logits, *args, **kwargs)

    return mix


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (lambda x: x.sum().item(), DataDependentOutputException),
        (lambda x: bool(x.sum() > 0), DataDependentOutputException),
        (lambda x: x + torch.ones(x.shape), FakeTensorDeviceMismatchError),
    ],
)
def test_a_planted_wait_or_a_tensor_of_the_host_ends_the_dry_run(
    fault: Callable[[torch.Tensor], object],
    error: type[Exception],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(step_module, "mix", planted(fault))
    with pytest.raises(error):
        launches_of_a_step("text", 2)


@pytest.mark.parametrize(
    "fault",
    [
        lambda x: x[torch.tensor([0, 1])],
        lambda x: x[[0, 1]],
        lambda x: x.cpu(),
        lambda x: torch.tensor([1.0, 2.0]).to(x.device),
        lambda x: torch.ones(2).to(x.device, non_blocking=True),  # not pinned: it waits
    ],
)
def test_a_planted_copy_is_found(
    fault: Callable[[torch.Tensor], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_module, "mix", planted(fault))
    with pytest.raises(AssertionError):
        launches_of_a_step("text", 2)


def test_a_copy_from_pinned_memory_is_told_apart() -> None:
    with dry_run() as found:
        torch.ones(2).pin_memory().to(CUDA, non_blocking=True)
        assert (len(found.pinned_uploads), found.waits) == (1, [])
        torch.ones(2).pin_memory().to(CUDA)
        assert len(found.uploads) == 1


def test_more_launches_than_the_budget_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(logits: torch.Tensor) -> None:
        for _ in range(STEP_BESIDE):
            logits.exp()

    before = launches_of_a_step("text", 2)
    monkeypatch.setattr(step_module, "mix", planted(busy))
    assert launches_of_a_step("text", 2) == before + STEP_BESIDE


def test_t5_and_the_codec() -> None:
    with dry_run(allow_reads=True) as found, torch.device(CUDA):
        text = T5Encoder(T5Config(**SHAPES["tiny"].text))
        codec = CompressionModel(Encodec(EncodecConfig(**SHAPES["tiny"].codec)))
        codes = torch.zeros(1, codec.num_codebooks, 30, dtype=torch.int64)
        found.clear()
        with torch.no_grad():
            assert text(torch.zeros(1, 7, dtype=torch.int64)).device.type == "cuda"
        assert found.waits == []
        wav = codec.decode(codes)
        assert wav.device.type == "cuda"
        pieces = codec.decode(codes, piece_frames=20)
        assert pieces.shape == wav.shape
        assert set(found.waits) == {"aten._local_scalar_dense.default"}  # are all codes in range?
        found.clear()
        assert codec.encode(wav)[0].shape == codes.shape
        assert found.waits == []


def test_the_style_conditioner() -> None:
    lm = toy_kind("style", dim=32)
    conditioner, cfg = lm.condition_provider.conditioners["self_wav"], lm.cfg.style
    assert isinstance(conditioner, StyleConditioner)
    assert cfg is not None
    with dry_run() as found, torch.no_grad():
        conditioner.to(CUDA)
        found.clear()
        prefix = conditioner(torch.zeros(30, cfg.feature_dim, device=CUDA), cfg)
        assert prefix.device.type == "cuda"
        assert found.waits == []


def test_shapes_of_a_step_do_not_depend_on_data() -> None:
    lm = toy_kind("text", dim=32)
    with dry_run():
        engine = engine_of(lm.to(CUDA))
        shape: StepShape = replace(engine.shape, n_keys=round_up(20))
        sizes = [engine.state.sequence.shape, engine.state.step.shape]
        engine.run_step(shape)
        assert [engine.state.sequence.shape, engine.state.step.shape] == sizes
