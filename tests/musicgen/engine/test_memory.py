"""What an engine holds: what the formula says, whatever the length of the clips."""

import os
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from musicgen.conditioning.fuser import ClipConditions
from musicgen.engine import prefill
from musicgen.engine.engine import Engine, EngineOptions, Request
from musicgen.engine.kv_cache import Cache, grown
from musicgen.engine.linear import has_fast_bf16
from musicgen.registry import row_bytes
from tests.musicgen.toy import KINDS, Kind, run, toy_kind

BF16 = pytest.param("bf16", marks=pytest.mark.skipif(not has_fast_bf16(), reason="no AVX-512"))
ROOT = Path(__file__).parents[3]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def held_bytes(engine: Engine) -> int:
    """Bytes of all cache tensors, as they were allocated."""
    caches = engine.state.caches + engine.state.cross_caches
    return sum(t.untyped_storage().nbytes() for c in caches for t in (c.keys, c.values))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("kind", KINDS)
def test_caches_hold_the_bytes_of_the_formula(kind: Kind, dtype: str, device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    if device == "cpu" and dtype == "fp16":
        pytest.skip("fp16 is for GPUs")
    lm = toy_kind(kind, dim=32).to(device)
    for slots, frames in [(1, 60), (3, 61), (2, 500)]:  # 64 steps are one block of cells, 65 two
        engine = Engine(
            lm, EngineOptions(slots=slots, max_frames=frames, max_text_tokens=20, dtype=dtype)
        )
        row = row_bytes(lm.cfg, dtype, window_frames=frames, max_text_tokens=20)
        assert held_bytes(engine) == 2 * slots * row
        run(engine, [Request("a", conditions(lm.cfg.dim, 20, kind), 9, 1)])
        assert held_bytes(engine) == 2 * slots * row


def conditions(dim: int, n_text: int, kind: Kind) -> ClipConditions:
    text = torch.ones(n_text, dim)
    if kind in ("text", "stereo"):
        return ClipConditions(text)
    n_audio = 7 if kind == "melody" else 1
    return ClipConditions(text, None, torch.zeros(n_audio, dim))


def test_a_text_longer_than_64_tokens_widens_the_cross_attention_once() -> None:
    lm = toy_kind("text", dim=32)
    engine = Engine(lm, EngineOptions(slots=2, max_frames=50))
    before = held_bytes(engine)
    for n_text in (130, 100, 192):
        run(engine, [Request("a", conditions(32, n_text, "text"), 5, 1)])
        assert held_bytes(engine) - before == 4 * (2 * lm.cfg.n_layers * 32 * (192 - 64) * 4)


def test_a_text_that_does_not_fit_leaves_layers_that_the_next_one_grows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only one layer's old cells are held beside the new ones, also when growth fails half-way."""
    engine = Engine(toy_kind("text", dim=32), EngineOptions(slots=1, max_frames=10))
    expected = run(engine, [Request("a", conditions(32, 100, "text"), 5, 1)])["a"].codes
    held: list[weakref.ref[torch.Tensor]] = []

    def grow(cache: Cache, *given: Any) -> Cache:
        assert all(old() is None for old in held)
        if len(held) == 1 and room == 0:
            raise torch.OutOfMemoryError("CUDA out of memory")
        held.append(weakref.ref(cache.keys))
        return grown(cache, *given)

    engine = Engine(toy_kind("text", dim=32), EngineOptions(slots=1, max_frames=10))
    monkeypatch.setattr(prefill, "grown", grow)
    room = 0
    with pytest.raises(torch.OutOfMemoryError):
        run(engine, [Request("a", conditions(32, 100, "text"), 5, 1)])
    engine.reset()
    room = 1
    found = run(engine, [Request("a", conditions(32, 100, "text"), 5, 1)])["a"].codes
    assert len(held) == len(engine.state.cross_caches)
    assert torch.equal(found, expected)


def test_a_slot_counts_the_longest_text() -> None:
    cfg = toy_kind("text", dim=32).cfg
    short, long = (row_bytes(cfg, "fp32", longest_text=longest) for longest in (False, True))
    assert long - short == 2 * cfg.n_layers * 32 * (512 - 64) * 4
    prefix = toy_kind("melody", dim=32).cfg
    assert row_bytes(prefix, "fp32", longest_text=True) == row_bytes(prefix, "fp32")


def figures(code: str) -> list[float]:
    """What a fresh process prints, as numbers; what it frees goes back to the system at once."""
    env = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT, env=env
    )
    return [float(word) for word in done.stdout.split()]


GROWTH = """
import os
import torch
from musicgen.conditioning.fuser import ClipConditions
from musicgen.config import LMConfig
from musicgen.engine.engine import Engine, EngineOptions, Request
from musicgen.registry import row_bytes
from musicgen.lm.model import LMModel
from musicgen.engine.weights import prepare
from tests.musicgen.toy import run

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

torch.set_num_threads(1)
cfg = LMConfig(dim=256, n_heads=4, n_layers=8, ffn_dim=512, n_codebooks=4, card=64,
               delays=(0, 1, 2, 3), text_dim=16, fuse="cross")
lm = LMModel(cfg).eval()
weights = prepare(lm, "{dtype}", 1536)
clips = [Request(str(i), ClipConditions(torch.randn(5, 256)), 6, i) for i in range(12)]
run(Engine(lm, EngineOptions(slots=1, max_frames=6, dtype="{dtype}"), weights), clips[:1])
before = resident()
engine = Engine(lm, EngineOptions(slots=10, max_frames=1500, dtype="{dtype}"), weights)
engine.reset()  # writes every cell
run(engine, clips)
print(resident() - before, 20 * row_bytes(cfg, "{dtype}"))
"""


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["fp32", BF16])
def test_a_process_grows_by_its_caches(dtype: str) -> None:
    grown, formula = figures(GROWTH.replace("{dtype}", dtype))
    assert formula > (500e6 if dtype == "fp32" else 250e6)
    assert abs(grown - formula) < 0.1 * formula


PEAKS = """
import resource
import sys
import torch
from musicgen import MusicGen
from musicgen.config import SamplingParams
from musicgen.request_builder import GenerationRequest

torch.set_num_threads(1)
model = MusicGen.get_pretrained("tiny", device="cpu", keep_lm=False)
engine = model.make_engine(1)
for seconds in (30, {seconds}):
    clip = GenerationRequest("a", "x", seconds * 50, 1, SamplingParams(cfg_coef=1.0))
    engine.submit(model.make_request(clip))
    ended = []
    while not ended:
        ended = engine.step()
    wav = model.decode(ended[0].codes)
    print(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, wav.nbytes)
    del wav
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.long
@pytest.mark.parametrize("seconds", [45, 600])
def test_a_long_clip_needs_what_half_a_minute_needs_and_its_audio(seconds: int) -> None:
    short_peak, short_audio, long_peak, long_audio = figures(
        PEAKS.replace("{seconds}", str(seconds))
    )
    assert long_audio == seconds / 30 * short_audio
    assert long_peak - short_peak < long_audio + 2e6
