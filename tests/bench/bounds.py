"""What bounds the engine on a CPU, part by part: products, what stands between them, T5, codec.

    python -m tests.bench.bounds [--shape small] [--out FILE]

Products are those of all layers and heads of the shape, run one after the other as in a step, so
that weights come from memory. Writes out/bench/bounds.json.
"""

import argparse
import json
import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from musicgen.config import LMConfig
from musicgen.engine.linear import make_linear
from musicgen.lm.int8 import quantise
from tests.bench import machine
from tests.bench.ours import Ours
from tests.bench.shapes import SHAPES, checkpoint

OUT = Path("out/bench")
CLIPS = (1, 2, 4, 8)
N_TOKENS, REPEATS, TRIES = 100, 15, 5
PROMPT = "a calm piano melody with soft strings and a slow beat for a quiet evening"
DECODED_S = (4.0, 4.3, 4.7)
log = logging.getLogger("bench")

Result = dict[str, Any]
Product = Callable[[Tensor], Tensor]


def matrices(cfg: LMConfig) -> list[Tensor]:
    """All that a step multiplies with, [out, in] each, in its order."""
    generator = torch.Generator().manual_seed(0)
    dim, ffn = cfg.dim, cfg.ffn_dim
    layer = [(3 * dim, dim), (dim, dim), (dim, dim), (dim, dim), (ffn, dim), (dim, ffn)]
    shapes = layer * cfg.n_layers + [(cfg.n_codebooks * cfg.card, dim)]
    return [torch.randn(shape, generator=generator) for shape in shapes]


def products(cfg: LMConfig) -> Result:
    """Milliseconds for all products of a step, by clips with guidance and by way, and the
    gigabytes of float32 weights that a second goes through."""
    dense = matrices(cfg)
    whole = [quantise(weight) for weight in dense]
    ways: dict[str, list[Product]] = {
        "packed": [make_linear(weight, torch.float32, packed=True) for weight in dense],
        "plain": [make_linear(weight, torch.float32, packed=False) for weight in dense],
        "row by row": [lambda x, w=w: torch.stack([w.mv(row) for row in x]) for w in dense],
        "torch's int8": [
            lambda x, m=m: torch._weight_int8pack_mm(x, m.values, m.scale) for m in whole
        ],
    }
    n_bytes = sum(weight.numel() * 4 for weight in dense)
    found: Result = {"weights_gb": n_bytes / 1e9}
    for n_clips in CLIPS:
        found[str(n_clips)] = row = {}
        rows = {
            width: torch.randn(machine.ROWS_PER_CLIP * n_clips, width)
            for width in {weight.shape[1] for weight in dense}
        }
        inputs = [rows[weight.shape[1]] for weight in dense]
        for name, maps in ways.items():
            seconds = machine.best_s(partial(_run, maps, inputs), "cpu", TRIES)
            row[name] = {"ms": 1000 * seconds, "gb_per_s": n_bytes / seconds / 1e9}
    return found


def _run(maps: Sequence[Product], inputs: Sequence[Tensor]) -> None:
    for product, x in zip(maps, inputs, strict=True):
        product(x)


def text(ours: Ours) -> Result:
    """Milliseconds of T5 for a prompt, as it is and with packed linear layers, and whether those
    give the same bits."""
    encoder = ours.model.text_encoder
    ids = torch.tensor([encoder.tokenizer(PROMPT).input_ids])  # [1, L]; `encode` keeps what it made
    found: Result = {"tokens": ids.shape[1]}
    hidden = []
    for way in ("plain", "packed"):
        if way == "packed":
            for module in encoder.model.modules():
                if isinstance(module, nn.Linear):
                    packed = make_linear(module.weight, torch.float32, packed=True)
                    module.forward = packed  # type: ignore[method-assign, assignment]
        with torch.no_grad():
            hidden.append(encoder.model(ids))
            seconds = machine.best_s(partial(encoder.model, ids), "cpu", TRIES)
        found[f"{way}_ms"] = 1000 * seconds
    found["largest_difference"] = float((hidden[0] - hidden[1]).abs().max())
    return found


def codec(ours: Ours) -> Result:
    """Audio-seconds that the codec decodes in a second, the first time for a length and again."""
    lm, rates = ours.model.lm.cfg, {"first": [], "again": []}
    for seconds in DECODED_S:
        n_frames = round(seconds * ours.model.frame_rate)
        codes = torch.zeros(lm.n_codebooks, n_frames, dtype=torch.long)
        for way in ("first", "again"):
            started = perf_counter()
            ours.model.decode(codes)
            rates[way].append(seconds / (perf_counter() - started))
    return {way: sum(values[1:]) / len(values[1:]) for way, values in rates.items()}


def bench(shape: str, out: Path) -> Result:
    """Measures all of it; writes and returns it."""
    ours = Ours(str(checkpoint(shape, out.parent)), "fp32", 1, torch.get_num_threads())
    found = {
        "machine": machine.describe(),
        "limits": machine.limits("fp32"),
        "step_ms": {
            str(n): 1000 * ours.steps(n, [N_TOKENS], REPEATS)[str(N_TOKENS)] for n in CLIPS
        },
        "products": products(SHAPES[shape].lm),
        "codec": codec(ours),
        "text": text(ours),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return found


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--shape", default="small", choices=sorted(SHAPES))
    parser.add_argument("--out", type=Path, default=OUT / "bounds.json")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(2)
    log.info("%s", json.dumps(bench(options.shape, options.out), indent=2))


if __name__ == "__main__":
    main()
