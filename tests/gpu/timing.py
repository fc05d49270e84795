"""How fast the device is, beside what its memory allows."""

import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from statistics import median

import torch

from musicgen.config import LMConfig
from musicgen.engine.cuda import DeviceStream, use_repeatable_numerics
from musicgen.engine.engine import ROWS_PER_SLOT, Engine
from musicgen.engine.invariance import differing_slots
from musicgen.engine.linear import DTYPES
from musicgen.engine.step import round_up
from musicgen.engine.weights import StepWeights, drop_weights, prepare
from musicgen.lm.model import LMModel
from musicgen.registry import AUTO_SLOTS_AT_MOST, FRAME_RATE_HZ, row_bytes
from tests.bench import machine
from tests.bench.shapes import SHAPES
from tests.gpu.case import Check, Context, Figures
from tests.gpu.models import codec, make_engine, prompt, random_lm, request, text_encoder

LENGTHS, BATCHES = (256, 750, 1472), (1, 8, 32)
TIMED_STEPS, FRAMES = 20, 1500
RESERVE_BYTES = 4 << 30


def limits(context: Context) -> Figures:
    """Bandwidth of a read and a copy, and the peak of products, as measured."""
    sizes = {"megabytes": 64, "width": 256} if context.tiny else {"megabytes": 2048, "width": 8192}
    return machine.limits(context.dtype, str(context.device), **sizes)


def weights_of(cfg: LMConfig, context: Context) -> tuple[LMModel, StepWeights]:
    """Random weights as an engine runs them, and the model without those."""
    lm = random_lm(cfg, context.device, DTYPES[context.dtype])
    weights = prepare(lm, context.dtype, round_up(FRAMES + cfg.max_delay + 1))
    drop_weights(lm)
    return lm, weights


def slots_at_most(cfg: LMConfig, context: Context) -> int:
    """Slots that the free memory has room for, as `--slots auto` takes them."""
    if context.tiny:
        return 2
    per_slot = ROWS_PER_SLOT * row_bytes(cfg, context.dtype, longest_text=True)
    return max(1, min((context.free_bytes() - RESERVE_BYTES) // per_slot, AUTO_SLOTS_AT_MOST))


def steps(name: str) -> Callable[[Context], Figures]:
    """The check that times the steps of that shape."""

    def measure(context: Context) -> Figures:
        cfg = SHAPES["tiny" if context.tiny else name].lm
        bytes_per_s = limits(context)["bytes_per_s"]
        lm, weights = weights_of(cfg, context)
        most = slots_at_most(cfg, context)
        batches = (1, 2) if context.tiny else sorted({b for b in BATCHES if b < most} | {most})
        cells, left_out = [], []
        for n_clips in batches:
            if context.left_s < 0:
                left_out.append(n_clips)
                continue
            with full_engine(lm, weights, n_clips, context) as engine:
                for n_tokens in (8, 30) if context.tiny else LENGTHS:
                    taken_s = step_s(engine, n_tokens, context)
                    cells.append(cell(cfg, n_clips, n_tokens, taken_s, bytes_per_s, context))
            if n_clips == batches[0]:
                with full_engine(lm, weights, n_clips, context, graphs=False) as engine:
                    cells[0]["eager_ms"] = 1e3 * step_s(engine, cells[0]["n_tokens"], context)
        return {"bytes_per_s": bytes_per_s, "steps": cells, "left_out": left_out}

    return measure


@contextmanager
def full_engine(
    lm: LMModel,
    weights: StepWeights,
    slots: int,
    context: Context,
    *,
    graphs: bool | None = None,
) -> Iterator[Engine]:
    """An engine in all of whose slots a clip of 30 s has begun."""
    frames = 60 if context.tiny else FRAMES
    engine = make_engine(lm, slots, frames, context, weights, graphs=graphs)
    for i in range(slots):
        engine.submit(request(lm, f"{i}", frames))
    engine.step()
    try:
        yield engine
    finally:
        engine.close()


def step_s(engine: Engine, n_tokens: int, context: Context) -> float:
    """Seconds of one step with so many tokens in every row's cache, after a pass that captures."""
    timed = 3 if context.tiny else TIMED_STEPS
    for repeat in range(3):
        go_to(engine, n_tokens)
        context.wait()
        started = time.perf_counter()
        for _ in range(timed):
            engine.step()
        context.wait()
        if repeat == 2:
            return (time.perf_counter() - started) / timed
    raise AssertionError


def go_to(engine: Engine, n_tokens: int) -> None:
    """Let all clips stand at that step; what is in their caches does not change the time."""
    with engine.stream.running():
        engine.state.sequence.fill_(1)
        engine.state.step.fill_(n_tokens)
    for clip in engine.scheduler.running:
        clip.position, clip.n_steps_left = n_tokens, 1 << 20


def cell(
    cfg: LMConfig, n_clips: int, n_tokens: int, taken_s: float, bytes_per_s: float, context: Context
) -> Figures:
    """What a step's time means."""
    moved = machine.step_bytes(cfg, context.dtype, n_clips, n_tokens)
    return {
        "n_clips": n_clips,
        "n_tokens": n_tokens,
        "ms": 1e3 * taken_s,
        "tokens_per_s": n_clips * cfg.n_codebooks / taken_s,
        "audio_s_per_s": n_clips / FRAME_RATE_HZ / taken_s,
        "gb_per_s": moved / taken_s / 1e9,
        "of_bandwidth": moved / taken_s / bytes_per_s,
    }


def int8_steps(context: Context) -> Figures:
    """Steps of musicgen-small with full weights and with weights in int8, and their memory."""
    cfg = SHAPES["tiny" if context.tiny else "small"].lm
    batches, n_tokens = ((1, 2), 8) if context.tiny else ((1, 8), 256)
    found: Figures = {}
    for name in ("full", "int8"):
        before = context.free_bytes() if context.on_cuda else 0
        lm = random_lm(cfg, context.device, DTYPES[context.dtype])
        lm.int8 = name == "int8"  # `prepare` rounds by itself
        weights = prepare(lm, context.dtype, round_up(FRAMES + cfg.max_delay + 1))
        drop_weights(lm)
        if context.on_cuda:
            torch.cuda.empty_cache()
            found[f"{name} weights, GB"] = (before - context.free_bytes()) / 1e9
        for n_clips in batches:
            with full_engine(lm, weights, n_clips, context) as engine:
                found[f"{name}, {n_clips} clips, ms"] = 1e3 * step_s(engine, n_tokens, context)
        del lm, weights
    return found


def price_of_repeating(context: Context) -> Figures:
    """Steps of musicgen-small and the codec, with `use_repeatable_numerics` and without; and at
    which numbers of slots a step's bits differ from those at the most slots."""
    cfg = SHAPES["tiny" if context.tiny else "small"].lm
    found: Figures = {}
    codes = None
    for on in (False, True):
        if context.on_cuda:
            use_repeatable_numerics(on)
        lm, weights = weights_of(cfg, context)
        model = codec(context)
        if codes is None:
            codes = torch.randint(
                model.cardinality, (1, model.num_codebooks, 30 * model.frame_rate)
            )
            codes = codes[..., : 60 if context.tiny else None].to(context.device)
        told: Figures = {}
        for n_clips in (1, 2) if context.tiny else (1, 8, 32):
            with full_engine(lm, weights, n_clips, context) as engine:
                n_tokens = 8 if context.tiny else 750
                told[f"step of {n_clips} ms"] = 1e3 * step_s(engine, n_tokens, context)
        decode_s = machine.best_s(lambda m=model, c=codes: m.decode(c), str(context.device), 3)
        told["codec ms"] = 1e3 * decode_s
        slots = 4 if context.tiny else AUTO_SLOTS_AT_MOST
        told["other bits at slots"] = list(differing_slots(weights, slots))
        found["repeatable" if on else "fast"] = told
    return found


def admission(context: Context) -> Figures:
    """Admission of one clip beside a running one: what the host takes to launch it, and what the
    device takes until it is done, both less a plain step. Then the first steps of a new shape:
    eager, captured, replayed."""
    cfg = SHAPES["tiny" if context.tiny else "small"].lm
    lm, weights = weights_of(cfg, context)
    frames = 60 if context.tiny else FRAMES
    engine = make_engine(lm, 4, frames, context, weights)
    engine.submit(request(lm, "mate", frames))
    for _ in range(4):
        plain = _host_and_device(engine.step, context)
    taken = []
    for i in range(8):
        engine.submit(request(lm, f"clip {i}", frames))
        taken.append(_host_and_device(engine.step, context))
        engine.cancel(f"clip {i}")
    go_to(engine, 128 if not context.tiny else 1)
    first = [1e3 * _host_and_device(engine.step, context)[1] for _ in range(3)]
    return {
        "host_ms": 1e3 * (median(host for host, _ in taken) - plain[0]),
        "device_ms": 1e3 * (median(device for _, device in taken) - plain[1]),
        "plain_step_ms": 1e3 * plain[1],
        "eager_captured_replayed_ms": first,
    }


def _host_and_device(run: Callable[[], object], context: Context) -> tuple[float, float]:
    context.wait()
    started = time.perf_counter()
    run()
    host_s = time.perf_counter() - started
    context.wait()
    return host_s, time.perf_counter() - started


def codec_and_t5(context: Context) -> Figures:
    """Seconds of audio that the codec decodes and encodes per second, and T5's time."""
    model, encoder, found = codec(context), text_encoder(context), {}
    for seconds in (1,) if context.tiny else (10, 30):
        n_frames = seconds * model.frame_rate
        codes = torch.randint(model.cardinality, (1, model.num_codebooks, n_frames))
        codes = codes.to(context.device)
        taken_s = machine.best_s(lambda codes=codes: model.decode(codes), str(context.device), 3)
        wav = model.decode(codes)
        encode_s = machine.best_s(lambda wav=wav: model.encode(wav), str(context.device), 3)
        found[f"decode {seconds} s"] = {"ms": 1e3 * taken_s, "audio_s_per_s": seconds / taken_s}
        found[f"encode {seconds} s"] = {"ms": 1e3 * encode_s, "audio_s_per_s": seconds / encode_s}
    for n_words in (15, 63):
        texts = iter(prompt(i, n_words) for i in range(10))
        taken_s = machine.best_s(lambda t=texts: encoder.encode(next(t)), str(context.device), 5)
        found[f"T5 {n_words + 1} tokens"] = {"ms": 1e3 * taken_s}
    return found


def whole_clips(context: Context) -> Figures:
    """Clips of 4 to 30 s, admitted longest first, with the codec in a thread beside them."""
    cfg = SHAPES["tiny" if context.tiny else "small"].lm
    lm, weights = weights_of(cfg, context)
    model, rng = codec(context), random.Random(0)
    n_clips, slots = (6, 2) if context.tiny else (96, 32)
    longest = 40 if context.tiny else FRAMES
    lengths = sorted((rng.randint(longest // 8, longest) for _ in range(n_clips)), reverse=True)
    engine = make_engine(lm, slots, longest, context, weights)
    side = DeviceStream(context.device)

    def decode(codes: torch.Tensor) -> int:
        with side.running():
            codes = codes[: model.num_codebooks].to(context.device)
            return int(model.decode(codes[None]).cpu().shape[-1])

    context.wait()
    started = time.perf_counter()
    with ThreadPoolExecutor(1) as pool:
        for i, n_frames in enumerate(lengths):
            engine.submit(request(lm, f"clip {i}", n_frames))
        decoding = []
        while engine.n_active or engine.n_waiting:
            for clip in engine.step():
                assert clip.codes is not None, clip.error
                decoding.append(pool.submit(decode, clip.codes))
        tokens_s = time.perf_counter() - started
        n_samples = sum(each.result() for each in decoding)
    wall_s = time.perf_counter() - started
    audio_s = sum(lengths) / FRAME_RATE_HZ
    return {
        "clips": n_clips,
        "samples": n_samples,
        "audio_s_per_s": audio_s / wall_s,
        "audio_s_per_s_without_codec": audio_s / tokens_s,
        "occupancy": engine.occupancy,
    }


CHECKS = (
    Check("limits of the device", limits, 15),
    *(Check(f"steps of {name}", steps(name), 50) for name in ("small", "medium", "large")),
    Check("weights in int8", int8_steps, 25),
    Check("price of repeating", price_of_repeating, 30),
    Check("admission and capture", admission, 15),
    Check("codec and T5", codec_and_t5, 25),
    Check("whole clips", whole_clips, 60),
)
