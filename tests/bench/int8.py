"""What `--weights int8` changes: logits, memory, and the time of a product on this CPU.

    python -m tests.bench.int8 [--shape small] [--out FILE]

The model has the shape of musicgen-small and random weights, whose rows are normally distributed:
trained weights have outliers, which int8 with one scale per row rounds more coarsely. What int8
does to music is measured on the bundled model:

    python -m musicgen.tiny.evaluation.evaluate --weights int8 --output out/eval/tiny-int8.json
"""

import argparse
import copy
import json
import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from musicgen.conditioning.fuser import RowCondition
from musicgen.config import LMConfig
from musicgen.engine.linear import make_linear
from musicgen.lm.int8 import Int8Matrix, quantise, round_to_int8
from musicgen.lm.model import LMModel
from tests.bench import machine
from tests.bench.shapes import SHAPES

OUT = Path("out/bench")
N_STEPS, N_TEXT = 40, 9
ROWS = (2, 4, 16)  # of one clip with guidance, of two, of eight
TRIES = 7

log = logging.getLogger("bench")
Result = dict[str, Any]


@torch.no_grad()
def random_lm(cfg: LMConfig) -> LMModel:
    """Matrices are normal and 1 / sqrt(width) wide, so that activations keep their size."""
    generator = torch.Generator().manual_seed(0)
    lm = LMModel(cfg)
    for parameter in lm.parameters():
        if parameter.dim() == 2:
            parameter.normal_(std=parameter.shape[1] ** -0.5, generator=generator)
    return lm.eval()


@torch.no_grad()
def logits_error(cfg: LMConfig) -> Result:
    """How far the logits of int8 and, for comparison, of bfloat16 weights are from float32's.

    `relative` is the norm of the difference over the norm, `kl_nats` the mean divergence of the
    distributions, `same_choice` the share of the tokens that stay the likeliest.
    """
    lm = random_lm(cfg)
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(cfg.card, (2, cfg.n_codebooks, N_STEPS), generator=generator)
    text = torch.randn(2, N_TEXT, cfg.dim, generator=generator)
    conditions = [RowCondition(cross=row) for row in text]
    exact = lm(tokens, conditions)
    rounded = copy.deepcopy(lm)
    round_to_int8(rounded)
    half = copy.deepcopy(lm)
    for parameter in half.parameters():
        parameter.copy_(parameter.bfloat16().float())
    return {
        "int8": _distance(exact, rounded(tokens, conditions)),
        "bf16 weights": _distance(exact, half(tokens, conditions)),
    }


def _distance(exact: Tensor, other: Tensor) -> dict[str, float]:
    expected, found = exact.log_softmax(-1), other.log_softmax(-1)
    return {
        "relative": float((other - exact).norm() / exact.norm()),
        "kl_nats": float((expected.exp() * (expected - found)).sum(-1).mean()),
        "same_choice": float((exact.argmax(-1) == other.argmax(-1)).float().mean()),
    }


def matrix_bytes(cfg: LMConfig) -> dict[str, int]:
    """Bytes of the matrices that int8 rounds, by number format."""
    with torch.device("meta"):
        lm = LMModel(cfg)
    inside = [p for p in lm.transformer.parameters() if p.dim() == 2]
    matrices = [*inside, *lm.linears.parameters()]
    n = sum(matrix.numel() for matrix in matrices)
    return {"fp32": 4 * n, "fp16": 2 * n, "int8": n + 4 * sum(len(m) for m in matrices)}


@torch.no_grad()
def products(cfg: LMConfig) -> Result:
    """Milliseconds for the first product of all feed-forward layers, by rows and by way."""
    generator = torch.Generator().manual_seed(2)
    shape = (cfg.ffn_dim, cfg.dim)
    dense = [torch.randn(shape, generator=generator) for _ in range(cfg.n_layers)]
    packed = [make_linear(weight, torch.float32, packed=True) for weight in dense]
    whole = [quantise(weight) for weight in dense]
    found = {}
    for n_rows in ROWS:
        x = torch.randn(n_rows, cfg.dim, generator=generator)
        ways = {
            "packed fp32": lambda x=x: [linear(x) for linear in packed],
            "torch's int8": lambda x=x: [_int8(x, matrix) for matrix in whole],
        }
        found[str(n_rows)] = {
            name: 1000 * machine.best_s(run, "cpu", TRIES) for name, run in ways.items()
        }
    return found


def _int8(x: Tensor, matrix: Int8Matrix) -> Tensor:
    out: Tensor = torch._weight_int8pack_mm(x, matrix.values, matrix.scale)
    return out


def bench(cfg: LMConfig, out: Path) -> Result:
    """Measures all of it; writes and returns it."""
    found = {
        "machine": machine.describe(),
        "logits": logits_error(cfg),
        "matrix_bytes": matrix_bytes(cfg),
        "product_ms": products(cfg),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return found


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--shape", default="small", choices=sorted(SHAPES))
    parser.add_argument("--out", type=Path, default=OUT / "int8.json")
    options = parser.parse_args()
    torch.set_num_threads(2)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    log.info("%s", json.dumps(bench(SHAPES[options.shape].lm, options.out), indent=2))


if __name__ == "__main__":
    main()
