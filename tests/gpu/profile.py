"""Where a step's time goes, what a launch takes, and transformers beside it."""

import time
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from musicgen.engine.cuda import DeviceStream
from musicgen.engine.linear import DTYPES
from tests.bench.shapes import SHAPES
from tests.gpu.case import Check, CheckSkipped, Context, Figures
from tests.gpu.timing import full_engine, go_to, weights_of

TOP = 15
PEER_TOKENS = 200


def top_kernels(context: Context) -> Figures:
    """The kernels that 10 steps of musicgen-small spend most time in, 8 clips of 750 tokens."""
    cfg = SHAPES["tiny" if context.tiny else "small"].lm
    lm, weights = weights_of(cfg, context)
    kinds = [ProfilerActivity.CPU]
    if context.on_cuda:
        kinds.append(ProfilerActivity.CUDA)
    with full_engine(lm, weights, 2 if context.tiny else 8, context) as engine:
        for _ in range(3):
            go_to(engine, 20 if context.tiny else 705)
            for _ in range(10):
                engine.step()
        go_to(engine, 20 if context.tiny else 705)
        context.wait()
        with profile(activities=kinds) as profiled:
            for _ in range(10):
                engine.step()
            context.wait()
    where = "self_device_time_total" if context.on_cuda else "self_cpu_time_total"
    averages = sorted(profiled.key_averages(), key=lambda each: -getattr(each, where))
    total = sum(getattr(each, where) for each in averages)
    return {
        "us_per_step": total / 10,
        "top": [
            {
                "name": each.key[:90],
                "calls_per_step": each.count / 10,
                "us_per_step": getattr(each, where) / 10,
                "share": getattr(each, where) / total,
            }
            for each in averages[:TOP]
        ],
    }


def launches(context: Context) -> Figures:
    """Microseconds per launch of a tiny kernel, from Python and within a graph."""
    n = 1000
    x = torch.zeros(64, device=context.device)

    def launch() -> None:
        for _ in range(n):
            x.add_(1.0)

    launch()
    found = {"eager_us": 1e6 * _seconds(launch, context) / n}
    if context.on_cuda:
        stream = DeviceStream(context.device, urgent=True)
        with stream.running():
            graph = stream.capture(launch, torch.cuda.graph_pool_handle())
            graph.replay()
            found["graph_us"] = 1e6 * _seconds(graph.replay, context) / n
    return found


def _seconds(run: Any, context: Context) -> float:
    context.wait()
    started = time.perf_counter()
    run()
    context.wait()
    return time.perf_counter() - started


def transformers_beside(context: Context) -> Figures:
    """transformers' `generate()` of the same shape, 200 tokens, its codec left out."""
    try:
        from transformers import MusicgenForConditionalGeneration
    except ImportError as error:
        raise CheckSkipped(f"transformers lacks MusicGen: {error}") from error
    name = "tiny" if context.tiny else "small"
    shape, n_tokens = SHAPES[name], 12 if context.tiny else PEER_TOKENS
    before = torch.get_default_dtype()
    torch.set_default_dtype(DTYPES[context.dtype])
    try:
        with torch.device(context.device):
            model = MusicgenForConditionalGeneration(shape.config()).eval()
    finally:
        torch.set_default_dtype(before)
    card = shape.lm.card
    model.generation_config.update(
        pad_token_id=card, bos_token_id=card, decoder_start_token_id=card, max_length=1503
    )
    codec_s = [0.0]
    decode = model.audio_encoder.decode

    def timed(*args: Any, **kwargs: Any) -> Any:
        context.wait()
        started = time.perf_counter()
        decoded = decode(*args, **kwargs)
        context.wait()
        codec_s[0] += time.perf_counter() - started
        return decoded

    model.audio_encoder.decode = timed
    found: Figures = {}
    for n_clips in (1,) if context.tiny else (1, 8, 32):
        if context.left_s < 0:
            break
        ids = torch.randint(3, shape.text["vocab_size"], (n_clips, 16), device=context.device)

        @torch.inference_mode()
        def generate(n: int, ids: torch.Tensor = ids) -> None:
            model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                do_sample=True,
                guidance_scale=3.0,
                top_k=min(250, card),
                max_new_tokens=n,
            )

        generate(8)
        codec_s[0] = 0.0
        taken_s = _seconds(lambda: generate(n_tokens), context) - codec_s[0]
        found[f"{n_clips} clips"] = {
            "ms_per_step": 1e3 * taken_s / n_tokens,
            "audio_s_per_s": n_clips * n_tokens / 50 / taken_s,
        }
    return found


CHECKS = (
    Check("time per launch", launches, 10),
    Check("profile of a step", top_kernels, 25),
    Check("transformers beside it", transformers_beside, 60),
)
