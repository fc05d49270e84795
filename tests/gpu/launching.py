"""Whether a clip's tokens depend on anything but itself: graphs, neighbours, other threads."""

import random
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from musicgen.engine.cuda import DeviceStream
from musicgen.engine.cuda_graphs import GraphedStep
from musicgen.engine.weights import prepare
from tests.gpu.case import Check, Context, Figures, require
from tests.gpu.models import (
    codec,
    make_engine,
    prompt,
    request,
    run_all,
    small_lm,
    text_encoder,
)
from tests.musicgen.toy import KINDS, random_request, toy_kind
from tests.musicgen.workloads import check_toy_workload

N_STEPS = 1500
LONG_TEXT = 90  # cells: the caches of the text, which begin with 64, must grow


def graph_against_eager(context: Context) -> Figures:
    """Two engines, one with graphs and one without, get the same clips over 1,500 steps: admitted
    at any moment, cancelled in their rows, one with a text that makes caches grow. All of their
    tokens are compared, and at the end all rows to the bit."""
    n_steps, frames = (100, 20) if context.tiny else (N_STEPS, 300)
    lm = small_lm(context)
    weights = prepare(lm, context.dtype, 64 * (frames // 64 + 2))
    engines = [
        make_engine(lm, 4, frames, context, weights, graphs=graphs)
        for graphs in (context.on_cuda, False)
    ]
    rng, found = random.Random(0), {"clips": 0, "cancelled": 0, "grown": 0, "graphs": 0}
    ended: list[dict[str, object]] = [{}, {}]
    for step in range(n_steps):
        if engines[0].has_room and rng.random() < 0.2:
            grows = step > n_steps // 3 and not found["grown"]
            clip = request(
                lm,
                f"clip {step}",
                rng.randint(4, frames),
                n_text=LONG_TEXT if grows else rng.choice([1, 9, 20]),
            )
            found["grown"] += grows
            found["clips"] += 1
            for engine in engines:
                engine.submit(clip)
        if step % 30 == 29 and engines[0].n_active:
            key = rng.choice(engines[0].scheduler.running).progress.request.key
            cancelled = [engine.cancel(key) for engine in engines]
            found["cancelled"] += all(cancelled)
        for engine, done in zip(engines, ended, strict=True):
            done |= {clip.key: clip.codes for clip in engine.step()}
    steps = engines[0].run_step
    found["graphs"] = steps.n_graphs if isinstance(steps, GraphedStep) else 0
    require(found["clips"] > 3 and found["cancelled"] > 0, "too little happened", found)
    require(ended[0].keys() == ended[1].keys(), "other clips ended", found)
    for key, codes in ended[0].items():
        require(torch.equal(codes, ended[1][key]), f"{key}: graphs give other tokens", found)
    context.wait()
    rows = [engine.state.sequence for engine in engines]
    require(torch.equal(*rows), "clips under way have other tokens", found)
    return found | {"ended": len(ended[0])}


def reproducible_workloads(context: Context) -> Figures:
    """The random workloads of `tests/musicgen/test_reproducible`: mixed lengths, guidance,
    sampling, prompts, melodies and windows, together, in another order, and each alone."""
    dtypes = ("fp32", "fp16", "bf16") if context.on_cuda else ("fp32",)
    done = 0
    for number in range(2 if context.tiny else 8):
        for dtype in dtypes:
            if context.left_s < 0 and number >= len(KINDS):
                break
            check_toy_workload(number, dtype, context.device)
            done += 1
    return {"workloads": done}


def same_at_other_sizes(context: Context) -> Figures:
    """musicgen-small's shape: a clip beside longer ones, with a longer text beside it, and in a
    larger cache has the tokens that it has alone, at equal slots."""
    lm = small_lm(context)
    frames = 12 if context.tiny else 150
    clip = request(lm, "clip", frames // 2)
    alone = run_all(make_engine(lm, 3, frames, context), [clip])["clip"]
    mates = [request(lm, f"mate {i}", frames, n_text=60) for i in range(2)]
    for where, max_frames, order in (
        ("beside longer clips", frames, [clip, *mates]),
        ("in other rows", frames, [*mates, clip]),
        ("in a larger cache", 4 * frames, [mates[0], clip]),
    ):
        codes = run_all(make_engine(lm, 3, max_frames, context), order)["clip"]
        require(codes == alone, f"{where} a clip has other tokens")
    return {"frames": frames // 2}


def captures_beside_busy_threads(context: Context) -> Figures:
    """Steps are captured while two threads keep the codec and T5 busy on streams of their own; the
    clips and the threads' results are those of a quiet device."""
    lm, model, encoder = small_lm(context), codec(context), text_encoder(context)
    frames = 12 if context.tiny else 200
    requests = [request(lm, f"clip {i}", frames - 3 * i) for i in range(3)]
    codes = torch.randint(model.cardinality, (1, model.num_codebooks, frames)).to(context.device)
    texts = [prompt(i) for i in range(9)]
    quiet = run_all(make_engine(lm, 4, frames, context), requests)
    wav, hidden = model.decode(codes), encoder.encode(texts[0])
    assert hidden is not None

    def decode(number: int) -> bool:
        return torch.equal(model.decode(codes), wav)

    def encode(number: int) -> bool:
        ids = torch.tensor([encoder.tokenizer(texts[number % 9]).input_ids], device=context.device)
        states = encoder.model(ids)[0]  # beside the encoder's cache
        return number % 9 != 0 or torch.equal(states, hidden)

    with _busy(context, decode) as decoded, _busy(context, encode) as encoded:
        rounds = [run_all(make_engine(lm, 4, frames, context), requests) for _ in range(2)]
        while (len(decoded) < 3 or len(encoded) < 3) and context.left_s > 0:
            time.sleep(0.01)
    found = {"decodes": len(decoded), "encodes": len(encoded)}
    for kind, results in (("codec", decoded), ("T5", encoded)):
        wrong = [result for result in results if result is not True]
        require(not wrong, f"{kind} beside captures: {wrong[:1]}", found)
    require(all(codes == quiet for codes in rounds), "clips have other tokens", found)
    return found


@contextmanager
def _busy(context: Context, work: Callable[[int], bool]) -> Iterator[list[bool | str]]:
    """A thread that does `work` over and over on a stream of its own; its results, or its error."""
    results: list[bool | str] = []
    ended = threading.Event()
    side = DeviceStream(context.device)

    @torch.no_grad()
    def loop() -> None:
        while not ended.is_set():
            try:
                with side.running():
                    results.append(work(len(results)))
                side.synchronize()
            except Exception:
                results.append(traceback.format_exc(limit=3))

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield results
    finally:
        ended.set()
        thread.join()


def every_kind_runs(context: Context) -> Figures:
    """Ten random clips of every kind of model, with graphs and without, as on the CPU's tests."""
    found = {}
    for kind in KINDS:
        lm, rng = toy_kind(kind, dim=32).to(context.device), random.Random(3)
        requests = [random_request(rng, lm, str(i), 12) for i in range(10)]
        graphed = run_all(make_engine(lm, 3, 12, context), requests)
        eager = run_all(make_engine(lm, 3, 12, context, graphs=False), requests)
        require(graphed == eager, f"{kind}: graphs give other tokens")
        found[kind] = len(graphed)
    return found


CHECKS = (
    Check("every kind of model", every_kind_runs, 25),
    Check("graph against eager", graph_against_eager, 45),
    Check("reproducible workloads", reproducible_workloads, 40),
    Check("same tokens at other sizes", same_at_other_sizes, 20),
    Check("captures beside busy threads", captures_beside_busy_threads, 40),
)
