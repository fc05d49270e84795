"""A card that is full, and one that computes no more."""

import gc
import subprocess
import sys

import torch

from musicgen.codec.codec import CompressionModel
from musicgen.config import LMConfig
from musicgen.engine.device_errors import (
    is_broken_cuda,
    is_out_of_memory,
    retried_with_memory,
    without_frames,
)
from musicgen.engine.engine import Engine, EngineOptions
from musicgen.engine.weights import StepWeights, prepare
from musicgen.lm.model import LMModel
from musicgen.registry import row_bytes
from pipeline.replica.slots import make_engine, smaller_engine
from tests.gpu.case import Check, CheckSkipped, Context, Figures, require
from tests.gpu.models import codec, request, run_all, small_lm

SPARE_BYTES = 1 << 30  # what the filled card leaves for steps
ASSERTING = """
import torch
from musicgen.engine.device_errors import is_broken_cuda, is_out_of_memory
try:
    torch.zeros(4, device={device!r})[torch.tensor([9], device={device!r})].tolist()
except Exception as error:
    print(type(error).__name__, is_out_of_memory(error), is_broken_cuda(error))
"""


class Model:
    """What `slots` needs of a loaded model."""

    def __init__(self, lm: LMModel, weights: StepWeights, frames: int, dtype: str) -> None:
        self.lm, self.weights, self.frames, self.dtype = lm, weights, frames, dtype
        self.device = weights.device

    def make_engine(self, slots: int) -> Engine:
        """As `LoadedModel.make_engine`."""
        return Engine(self.lm, EngineOptions(slots, self.frames, dtype=self.dtype), self.weights)


def full_card(context: Context) -> Figures:
    """An engine whose text caches can't grow on a card that is full runs out of memory, goes away,
    and one of half as many slots makes the same clips as on an empty card."""
    if not context.on_cuda:
        raise CheckSkipped("needs a CUDA device whose memory can be filled")
    lm, frames, slots = small_lm(context), 1500, 32
    cfg: LMConfig = lm.cfg
    model = Model(lm, prepare(lm, context.dtype, 1536), frames, context.dtype)
    long_text = 8 * 64
    clips = [request(lm, f"clip {i}", 40, n_text=long_text) for i in range(3)]
    growth = 2 * 2 * slots * 2 * cfg.n_layers * cfg.dim * long_text
    engine = make_engine(model, slots)  # type: ignore[arg-type]
    require(engine.n_rows == 2 * slots, "the card is full from the start")
    ballast = fill_card(context, min(SPARE_BYTES, growth // 2))
    before = context.free_bytes()
    failed: BaseException | None = None
    try:
        run_all(engine, clips)
    except Exception as error:
        failed = error
    found = {"free_bytes": before, "growth_bytes": growth, "ballast_bytes": ballast.numel()}
    require(failed is not None, "the full card had room: nothing was tried", found)
    assert failed is not None
    require(is_out_of_memory(failed), f"{failed!r} does not count as memory", found)
    require(not is_broken_cuda(failed), f"{failed!r} counts as a broken device", found)
    without_frames(failed)
    engine.close()
    engine = smaller_engine(model, engine.n_rows, failed)  # type: ignore[arg-type]
    found["slots"] = engine.n_rows // 2
    codes = run_all(engine, clips)
    del ballast
    engine.close()
    torch.cuda.empty_cache()
    quiet = run_all(model.make_engine(found["slots"]), clips)
    require(codes == quiet, "clips of the shrunken engine have other tokens", found)
    saved = row_bytes(cfg, context.dtype, longest_text=True)
    return found | {"row_bytes": saved}


def fill_card(context: Context, spare_bytes: int) -> torch.Tensor:
    """Take all memory of the card but `spare_bytes`."""
    gc.collect()
    torch.cuda.empty_cache()
    n = max(context.free_bytes() - spare_bytes, 1)
    return torch.empty(n, dtype=torch.uint8, device=context.device)


def codec_on_a_full_card(context: Context) -> Figures:
    """The codec decodes 30 s in small pieces where a whole does not fit, as a replica does."""
    if not context.on_cuda:
        raise CheckSkipped("needs a CUDA device whose memory can be filled")
    model: CompressionModel = codec(context)
    codes = torch.randint(model.cardinality, (1, model.num_codebooks, 1500)).to(context.device)
    whole = model.decode(codes).cpu()
    ballast = fill_card(context, 200 << 20)
    wav = retried_with_memory(
        lambda: model.decode(codes), lambda: model.decode(codes, piece_frames=200)
    )
    found = {"off": float((wav.cpu() - whole).abs().max()), "ballast_bytes": ballast.numel()}
    require(found["off"] < 1e-3 * float(whole.std()) + 1e-4, "other samples in pieces", found)
    return found


def class_of_memory_errors(context: Context) -> Figures:
    """More than the device has is refused as lack of memory, and the device goes on."""
    failed: BaseException | None = None
    try:
        torch.empty(1 << 50, dtype=torch.uint8, device=context.device)
    except (RuntimeError, MemoryError) as error:
        failed = error
    assert failed is not None
    require(is_out_of_memory(failed), f"{failed!r} does not count as memory")
    require(not is_broken_cuda(failed), f"{failed!r} counts as a broken device")
    require(float(torch.ones(3, device=context.device).sum()) == 3.0, "the device is gone")
    return {"class": type(failed).__name__}


def class_of_a_device_assert(context: Context) -> Figures:
    """In a process of its own: an index out of range leaves a broken device, not a full one."""
    code = ASSERTING.format(device=str(context.device))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    said = done.stdout.split()
    found = {"class": said[0] if said else None, "stderr": done.stderr[-300:]}
    wanted = ["False", "True" if context.on_cuda else "False"]
    require(said[1:] == wanted, f"memory and broken should be {wanted}, got {said}", found)
    return found


CHECKS = (
    Check("full card", full_card, 40, needs_cuda=True),
    Check("codec on a full card", codec_on_a_full_card, 20, needs_cuda=True),
    Check("class of memory errors", class_of_memory_errors, 5),
    Check("class of a device assert", class_of_a_device_assert, 25),
)
