"""Which operations give a row the same bits among any number of rows, and at any length."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from musicgen.config import LMConfig
from musicgen.engine.linear import DTYPES
from musicgen.engine.step import DecodeState, round_up
from musicgen.engine.weights import StepWeights, prepare
from tests.bench.shapes import SHAPES
from tests.gpu.case import Check, Context, Figures, require
from tests.gpu.models import random_lm

MOST_ROWS = 128  # of 64 slots, the most that `--slots auto` takes
LENGTHS = (1, 63, 64, 65, 200, 500, 750, 1000, 1472)


def products_by_rows(context: Context) -> Figures:
    """Which products change a row's bits with the number of rows, for each model. That is a finding
    and no fault: rows then say `bits_depend_on: slots`. In a batch of one size, however, a row has
    the same bits in every place, or clips would depend on their rows."""
    found: Figures = {}
    for name in ("tiny",) if context.tiny else ("small", "medium", "large"):
        cfg = _short(SHAPES[name].lm)
        lm = random_lm(cfg, context.device, DTYPES[context.dtype])
        weights = prepare(lm, context.dtype, 64)
        differing: dict[str, list[int]] = {}
        for which, (product, width) in _products(weights, cfg).items():
            generator = torch.Generator(context.device).manual_seed(0)
            x = torch.randn(MOST_ROWS, width, generator=generator, device=context.device)
            whole = product(x)
            rows = [n for n in range(2, MOST_ROWS) if not torch.equal(product(x[-n:]), whole[-n:])]
            differing[which] = rows
            for n in (2, 16, MOST_ROWS):
                turned = product(x[:n].roll(1, 0)).roll(-1, 0)
                require(
                    torch.equal(turned, product(x[:n])),
                    f"{name} {which}: of {n} rows, bits depend on the place",
                    found,
                )
        found[name] = differing
    return found


def _short(cfg: LMConfig) -> LMConfig:
    return replace(cfg, n_layers=1)


def _products(
    weights: StepWeights, cfg: LMConfig
) -> dict[str, tuple[Callable[[Tensor], Tensor], int]]:
    """Every product of a step, and the width of its input."""
    layer = weights.layers[0]
    found: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
        "qkv": (layer.qkv, cfg.dim),
        "out": (lambda x: layer.out(x, x), cfg.dim),
        "linear1": (layer.linear1, cfg.dim),
        "linear2": (lambda x: layer.linear2(x[:, : cfg.dim].contiguous(), x), cfg.ffn_dim),
        "heads": (weights.heads, cfg.dim),
    }
    if layer.cross is not None:
        found["cross query"] = (layer.cross.query, cfg.dim)
    return found


def attention_by_length(context: Context) -> Figures:
    """A row's attention has the same bits whatever its mates' lengths: cells that are read beyond
    its own must change nothing, and neither must its place. The engine promises that."""
    cfg = _short(SHAPES["tiny" if context.tiny else "small"].lm)
    weights = prepare(random_lm(cfg, context.device), context.dtype, 64)
    n_rows, longest = 4, round_up(max(LENGTHS) + 64)
    state = DecodeState.idle(weights, n_rows, longest, 8)
    generator = torch.Generator(context.device).manual_seed(0)
    cache = state.caches[0]
    for part in (cache.keys, cache.values):
        part.normal_(generator=generator)
        part[2] = part[0]
    query = torch.randn(
        n_rows, cfg.n_heads, cfg.head_dim, generator=generator, device=context.device
    )
    query[2] = query[0]
    differing = []
    for length in LENGTHS:
        outputs = []
        for n_cells in (round_up(length), round_up(length) + 64, longest):
            seen = torch.tensor([length, 1, length, n_cells], device=context.device)
            out = cache.attend(query, cache.cells_to_read(seen, n_cells))
            outputs += [out[0], out[2]]
        if any(not torch.equal(out, outputs[0]) for out in outputs):
            differing.append(length)
    found = {"lengths": list(LENGTHS), "differing": differing}
    require(not differing, f"bits depend on the mates' lengths at {differing} cells", found)
    return found


CHECKS = (
    Check("products by rows", products_by_rows, 25),
    Check("attention by length", attention_by_length, 10),
)
