"""Weights in int8: what is rounded, how far, and that every way to compute has the same weights."""

import copy
import random

import pytest
import torch
from torch import Tensor

from musicgen.conditioning.fuser import RowCondition
from musicgen.config import FuseMethod
from musicgen.engine.engine import Engine, EngineOptions
from musicgen.engine.weights import LayerTensors, prepare
from musicgen.lm.int8 import Int8Matrix, quantise, round_to_int8
from musicgen.lm.model import LMModel
from tests.musicgen.toy import KINDS, Kind, random_request, run, toy_kind, toy_lm


def rounded(lm: LMModel) -> LMModel:
    twin = copy.deepcopy(lm)
    round_to_int8(twin)
    return twin


def test_a_number_moves_by_half_a_step_of_its_row_at_most() -> None:
    weight = torch.randn(7, 40, generator=torch.Generator().manual_seed(0)) * torch.logspace(
        -6, 3, 7
    ).unsqueeze(1)
    weight[3] = 0
    matrix = quantise(weight)
    assert matrix.values.dtype == torch.int8
    steps = weight.abs().amax(dim=1, keepdim=True) / 127
    assert ((matrix.dense(torch.float32) - weight).abs() <= 0.5001 * steps).all()
    assert matrix.values.int().abs().amax(dim=1).tolist() == [127, 127, 127, 0, 127, 127, 127]


def test_rounding_again_finds_the_same_whole_numbers() -> None:
    """Also where rows were scaled in between, as those of queries are."""
    first = quantise(torch.randn(64, 300, generator=torch.Generator().manual_seed(1)))
    again = quantise(first.dense(torch.float32) * 12**-0.5)
    assert torch.equal(again.values, first.values)
    torch.testing.assert_close(again.scale, first.scale * 12**-0.5, rtol=3e-7, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_matrices_of_a_step_are_rounded_and_nothing_else(kind: Kind) -> None:
    lm = toy_kind(kind)
    twin = rounded(lm)
    assert (lm.int8, twin.int8) == (False, True)
    changed = {
        name
        for (name, ours), theirs in zip(twin.named_parameters(), lm.parameters(), strict=True)
        if not torch.equal(ours, theirs)
    }
    inside = {name for name, p in lm.transformer.named_parameters("transformer") if p.dim() == 2}
    assert changed == inside | {f"linears.{k}.weight" for k in range(lm.cfg.n_codebooks)}


def dense(tensors: LayerTensors) -> list[Tensor]:
    found = [matrix for matrix in vars(tensors).values() if matrix is not None]
    assert all(isinstance(matrix, Int8Matrix) for matrix in found)
    return [matrix.dense(torch.float32) for matrix in found]


@pytest.mark.parametrize("fuse", ["cross", "prepend"])
def test_the_engine_holds_a_byte_per_number_where_layers_are_not_packed(fuse: FuseMethod) -> None:
    twin = rounded(toy_lm(fuse))
    layers = prepare(twin, "fp32", 64, packed=False).layers
    plain = copy.deepcopy(twin)
    plain.int8 = False
    for layer, expected in zip(
        layers, prepare(plain, "fp32", 64, packed=False).layers, strict=True
    ):
        assert layer.tensors is not None
        assert expected.tensors is not None
        theirs = [matrix for matrix in vars(expected.tensors).values() if matrix is not None]
        for ours, exact in zip(dense(layer.tensors), theirs, strict=True):
            torch.testing.assert_close(ours, exact, rtol=3e-7, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_every_way_to_compute_gives_the_same_tokens(kind: Kind) -> None:
    lm = rounded(toy_kind(kind))
    codes = []
    for packed in (True, False):
        rng = random.Random(3)
        engine = Engine(lm, EngineOptions(slots=2, max_frames=6, packed=packed))
        ended = run(engine, [random_request(rng, lm, str(i), 6) for i in range(4)])
        codes.append([ended[str(i)].codes.tolist() for i in range(4)])
    assert codes[0] == codes[1]


@torch.no_grad()
def test_logits_move_a_little() -> None:
    lm = toy_lm("cross")
    tokens = torch.randint(80, (2, 4, 9), generator=torch.Generator().manual_seed(2))
    conditions = [RowCondition(cross=torch.ones(3, lm.cfg.dim))] * 2
    before, after = lm(tokens, conditions), rounded(lm)(tokens, conditions)
    off = (after - before).norm() / before.norm()
    assert 1e-4 < off < 0.05


def test_what_is_no_matrix_of_a_step_is_a_float_still() -> None:
    weights = prepare(rounded(toy_lm("cross")), "bf16", 64, packed=False)
    assert weights.embeddings.dtype == torch.float32
    assert isinstance(weights.head_tensor, Int8Matrix)
