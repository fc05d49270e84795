"""Whether the device computes the right numbers: logits, sampling, T5 and the codec."""

from copy import deepcopy

import torch
from torch import Tensor

from musicgen.engine.kernels.select import interpreted
from musicgen.engine.kernels.table import OLDEST, capability_of
from musicgen.engine.linear import DTYPES, has_fast_bf16
from musicgen.engine.prefill import fill_cross, fill_prefix
from musicgen.engine.step import DecodeState, StepShape, round_up, step_logits
from musicgen.engine.weights import prepare
from musicgen.lm.guidance import guidance_rows
from musicgen.lm.int8 import round_to_int8
from musicgen.lm.model import LMModel
from musicgen.lm.sampling import FilterShape, RowSampling, choose
from tests.gpu.case import Check, CheckFailed, Context, Figures, require
from tests.gpu.models import (
    KINDS,
    checked_lm,
    codec,
    conditions,
    prompt,
    text_encoder,
)

N_STEPS, N_PROMPT = 72, 5  # more than one block of keys
EXACT = 2e-4  # of the logits' deviation, in fp32 without TF32
# Of the logits' deviation: what weights and activations in 11 or 8 bits cost, see test_step.
ROUNDED = {"fp16": 0.02, "bf16": 0.1}
LIKE_AUTOCAST = 1.5  # times the error of torch's own mixed precision


@torch.no_grad()
def stepwise_logits(
    lm: LMModel, sequence: Tensor, dtype: str, kernels: str = "eager", n_text: int = 9
) -> Tensor:
    """Teacher-forced logits [3, K, S - N_PROMPT, card] of one clip's rows, step by step."""
    parts = guidance_rows(conditions(lm.cfg, sequence.device, n_text), lm.cfg.fuse, "double")
    n_prefix = 0 if parts[0].prefix is None else len(parts[0].prefix)
    n_rows, rows, n_cells = 4, [2, 0, 3], round_up(n_prefix + N_STEPS)
    plain = sequence.device.type == "cpu" and dtype == "bf16" and not has_fast_bf16()
    weights = prepare(lm, dtype, n_cells, packed=False if plain or kernels == "triton" else None)
    state = DecodeState.idle(weights, n_rows, n_cells, N_STEPS + 1)
    state.sequence[rows, :, :N_STEPS] = sequence
    state.step[rows] = N_PROMPT
    state.n_prefix[rows] = n_prefix
    fill_cross(weights, state, rows, parts)
    fill_prefix(weights, state, rows, parts, sequence[:, :N_PROMPT])
    fused, logits = None, []
    if kernels == "triton":
        from musicgen.engine.kernels.fused_step import FusedStep  # needs Triton

        fused = FusedStep(weights, state)
    for step in range(N_PROMPT, N_STEPS):
        shape = StepShape(
            n_keys=round_up(n_prefix + step + 1),
            n_cross_keys=round_up(n_text),
            n_leads=n_rows,
            n_texts=n_rows,
            filters=FilterShape(),
        )
        if fused is not None:
            found = fused.logits(fused.static_part(shape)).float()
        else:
            tokens = state.sequence[:, :, step].clamp(min=0)  # [R, K]
            found = step_logits(weights, state, shape, tokens)
        logits.append(found[rows])
        state.step[rows] += 1
    return torch.stack(logits, dim=2)


@torch.no_grad()
def reference_logits(lm: LMModel, sequence: Tensor, dtype: torch.dtype) -> Tensor:
    """The same by the model's own forward pass in `dtype`."""
    own = deepcopy(lm).to(dtype)
    parts = guidance_rows(conditions(lm.cfg, sequence.device, 9), lm.cfg.fuse, "double")
    return own(sequence.expand(3, -1, -1), parts)[:, :, N_PROMPT:]


def off(logits: Tensor, exact: Tensor) -> float:
    """The error's deviation over that of the logits."""
    return float((logits.double() - exact).square().mean().sqrt() / exact.std())


def sequence_of(lm: LMModel, device: torch.device) -> Tensor:
    """Random tokens [K, S]."""
    generator = torch.Generator().manual_seed(4)
    return torch.randint(lm.cfg.card, (lm.cfg.n_codebooks, N_STEPS), generator=generator).to(device)


def paths(context: Context) -> tuple[str, ...]:
    """What computes steps here."""
    runs_triton = context.on_cuda and capability_of(context.device) >= OLDEST
    return ("eager", "triton") if runs_triton or interpreted() else ("eager",)


def step_against_float64(context: Context) -> Figures:
    """fp32 steps of every kind of model, in torch's operators and in Triton's kernels, against the
    forward pass in float64."""
    found: Figures = {}
    for kind in KINDS:
        lm = checked_lm(kind, context)
        sequence = sequence_of(lm, context.device)
        exact = reference_logits(lm, sequence, torch.float64)
        for path in paths(context):
            found[f"{path} {kind}"] = off(stepwise_logits(lm, sequence, "fp32", path), exact)
        del lm, exact
    worst = max(found.values())
    require(worst < EXACT, f"fp32 logits are {worst:.1e} off, at most {EXACT:.0e}: {found}", found)
    return found


def step_against_autocast(context: Context) -> Figures:
    """Half-precision steps lie no further from float64 than torch's autocast of the same model."""
    found: Figures = {}
    for dtype in ("fp16", "bf16") if context.on_cuda else ("bf16",):
        for kind in KINDS:
            lm = checked_lm(kind, context)
            sequence = sequence_of(lm, context.device)
            exact = reference_logits(lm, sequence, torch.float64)
            with torch.autocast(context.device.type, DTYPES[dtype]):
                theirs = off(reference_logits(lm, sequence, torch.float32), exact)
            for path in paths(context):
                ours = off(stepwise_logits(lm, sequence, dtype, path), exact)
                found[f"{dtype} {path} {kind}"] = {"ours": ours, "autocast": theirs}
                if not context.tiny and (ours > LIKE_AUTOCAST * theirs or ours > ROUNDED[dtype]):
                    raise CheckFailed(
                        f"{dtype} {path} {kind}: {ours:.2e} off, autocast {theirs:.2e}", found
                    )
            del lm, exact
    return found


def int8_against_float64(context: Context) -> Figures:
    """Steps with weights in int8, in torch's operators and in Triton's kernels, against the forward
    pass of the same rounded weights in float64."""
    lm = checked_lm("text", context)
    round_to_int8(lm)
    sequence = sequence_of(lm, context.device)
    exact = reference_logits(lm, sequence, torch.float64)
    found: Figures = {}
    for dtype in ("fp32", context.dtype) if context.on_cuda else ("fp32",):
        for path in paths(context):
            name = f"{dtype} {path}"
            found[name] = off(stepwise_logits(lm, sequence, dtype, path), exact)
            most = ROUNDED.get(dtype, EXACT)
            require(found[name] < most, f"{name} logits are {found[name]:.1e} off", found)
    return found


def sampling_against_cpu(context: Context) -> Figures:
    """The same logits give the same tokens as on the CPU: all of the greedy ones; of the drawn ones
    those whose number does not lie within rounding of a border between two tokens."""
    n_rows, n_codebooks, card = 64, 4, 128 if context.tiny else 2048
    generator = torch.Generator().manual_seed(1)
    logits = 3 * torch.randn(n_rows, n_codebooks, card, generator=generator)
    noise = torch.rand(n_rows, n_codebooks, generator=generator, dtype=torch.float64)
    row = torch.arange(n_rows)
    sampling = RowSampling(
        greedy=row % 8 == 0,
        temperature=0.7 + row % 3 * 0.3,
        top_k=torch.tensor([0, 5, 50, 250])[row % 4],
        top_p=torch.where(row % 5 == 0, 0.8, 0.0),
    )
    there = RowSampling(**{k: v.to(context.device) for k, v in vars(sampling).items()})
    shape = FilterShape(draws=True, max_top_k=256, top_p=True)
    here = choose(logits, sampling, noise, shape)
    tokens = choose(logits.to(context.device), there, noise.to(context.device), shape).cpu()
    same = tokens == here
    share = float((~same).double().mean())
    found = {"tokens": tokens.numel(), "different": share}
    require(bool(same[sampling.greedy].all()), "greedy tokens differ from the CPU's", found)
    require(share <= 0.01, f"{share:.1%} of the drawn tokens differ from the CPU's", found)
    return found


def t5_against_cpu(context: Context) -> Figures:
    """Hidden states of texts of 1 to 200 tokens, against float64 on the CPU."""
    encoder = text_encoder(context)
    exact_model = deepcopy(encoder.model).cpu().double()
    found: Figures = {}
    for n_words in (1, 16, 199):
        text = prompt(0, n_words)
        hidden = encoder.encode(text)
        assert hidden is not None
        ids = torch.tensor([encoder.tokenizer(text).input_ids])
        exact = exact_model(ids)[0]
        found[str(n_words)] = off(hidden.cpu(), exact)
    worst = max(found.values())
    require(worst < EXACT, f"T5's states are {worst:.1e} off, at most {EXACT:.0e}", found)
    return found


def codec_bits_and_pieces(context: Context) -> Figures:
    """A clip decodes to the same bits again, alone and in any batch; in pieces and on the CPU to
    nearly the same samples; and encodes to the same codes again."""
    model = codec(context)
    n_frames = 120 if context.tiny else 500
    codes = torch.randint(model.cardinality, (3, model.num_codebooks, n_frames))
    codes = codes.to(context.device)
    wav = model.decode(codes)
    scale = float(wav.double().std())
    in_pieces = model.decode(codes[:1], piece_frames=n_frames // 3)
    there = deepcopy(model).cpu().double().decode(codes[:1].cpu())
    found = {
        "pieces": float((in_pieces - wav[:1]).abs().max()) / scale,
        "cpu": float((there - wav[:1].cpu()).abs().max()) / scale,
    }
    require(torch.equal(model.decode(codes), wav), "a second decode gives other bits", found)
    require(torch.equal(model.decode(codes[1:2])[0], wav[1]), "a batch gives other bits", found)
    for name, limit in (("pieces", 1e-3), ("cpu", 1e-3)):
        require(found[name] < limit, f"{name}: {found[name]:.1e} of the deviation off", found)
    again, first = model.encode(wav)[0], model.encode(wav)[0]
    require(torch.equal(again, first), "a second encode gives other codes", found)
    return found


CHECKS = (
    Check("step against float64", step_against_float64, 40),
    Check("step against autocast", step_against_autocast, 50),
    Check("int8 weights against float64", int8_against_float64, 20),
    Check("sampling against CPU", sampling_against_cpu, 10),
    Check("T5 against CPU", t5_against_cpu, 20),
    Check("codec bits and pieces", codec_bits_and_pieces, 30),
)
