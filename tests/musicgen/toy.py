"""Small random models and random workloads for the tests of the core."""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from musicgen.conditioning.fuser import ClipConditions, RowCondition
from musicgen.config import ChromaConfig, FuseMethod, LMConfig, SamplingParams, StyleConfig
from musicgen.engine.engine import Engine, EngineOptions, EngineOutput, Request
from musicgen.engine.prefill import fill_cross, fill_prefix
from musicgen.engine.step import DecodeState, StepShape, round_up, step_logits
from musicgen.engine.weights import prepare
from musicgen.lm.model import LMModel
from musicgen.lm.sampling import FilterShape
from musicgen.windows import plan_windows

GOLDEN = Path(__file__).parent.parent / "golden"
CHROMA = ChromaConfig(n_fft=64, hop_length=16, n_chroma=12, chroma_length=7, sample_rate_hz=16_000)


STYLE = StyleConfig(
    dim=16,
    n_heads=2,
    n_layers=1,
    ffn_dim=32,
    n_codebooks=3,
    bins=8,
    feature_dim=12,
    feature_rate_hz=10,
    ds_factor=4,
    eval_q=2,
)
Kind = Literal["text", "melody", "style", "stereo"]
KINDS: tuple[Kind, ...] = get_args(Kind)


def toy_kind(kind: Kind, *, dim: int = 64) -> LMModel:
    """A random model of that kind; the stereo one is a text model."""
    if kind == "stereo":
        return toy_lm("cross", dim=dim, delays=(0, 0, 1, 1, 2, 2, 3, 3))
    if kind == "text":
        return toy_lm("cross", dim=dim)
    return toy_lm("prepend", dim=dim, style=STYLE if kind == "style" else None)


def toy_lm(
    fuse: FuseMethod,
    *,
    dim: int = 64,
    card: int = 80,
    delays: tuple[int, ...] = (0, 1, 2, 3),
    style: StyleConfig | None = None,
) -> LMModel:
    """A random model whose norms, biases and heads all matter."""
    cfg = LMConfig(
        dim=dim,
        n_heads=dim // 16,
        n_layers=2,
        ffn_dim=4 * dim,
        n_codebooks=len(delays),
        card=card,
        delays=delays,
        text_dim=16,
        fuse=fuse,
        chroma=CHROMA if fuse == "prepend" and style is None else None,
        style=style,
    )
    return randomise(LMModel(cfg))


def randomise(lm: LMModel) -> LMModel:
    """Give `lm` weights under which everything matters."""
    generator = torch.Generator().manual_seed(7)
    for parameter in lm.parameters():
        nn.init.normal_(parameter, std=0.15, generator=generator)
    for name, buffer in lm.named_buffers():
        if name.endswith("_codebook.embed"):
            nn.init.normal_(buffer, generator=generator)
    for module in lm.modules():
        if isinstance(module, nn.LayerNorm):
            nn.init.normal_(module.weight, mean=1.0, std=0.2, generator=generator)
    return lm.eval()


def random_request(rng: random.Random, lm: LMModel, key: str, max_frames: int) -> Request:
    """A clip with random length, text, melody, guidance, sampling and perhaps a prompt."""
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    cfg, n_frames = lm.cfg, rng.randint(1, max_frames)
    n_text = rng.choice([1, 3, 9, 70])
    text = torch.randn(n_text, cfg.dim, generator=generator)
    if rng.random() < 0.2:
        text = torch.zeros(1, cfg.dim)
    audio, null_audio = random_audio(rng, lm, generator)
    prompt = torch.randint(cfg.card, (cfg.n_codebooks, max(1, n_frames // 3)), generator=generator)
    return Request(
        key=key,
        conditions=ClipConditions(text, audio, null_audio),
        n_frames=n_frames,
        seed=rng.randrange(2**63),
        sampling=SamplingParams(
            use_sampling=rng.random() < 0.8,
            temperature=rng.choice([0.7, 1.0, 1.3]),
            top_k=rng.choice([0, 5, 50, 250]),
            top_p=rng.choice([0.0, 0.0, 0.8]),
            cfg_coef=rng.choice([1.0, 3.0, 3.0, 5.0]),
            cfg_coef_beta=rng.choice([None, None, 2.0]),
        ),
        prompt_codes=prompt if n_frames > 1 and rng.random() < 0.3 else None,
    )


def random_audio(
    rng: random.Random, lm: LMModel, generator: torch.Generator
) -> tuple[Tensor | None, Tensor | None]:
    """A melody or style and what stands for none; the model perhaps gets none."""
    cfg, given = lm.cfg, rng.random() < 0.6
    if cfg.style is not None:
        n_audio = rng.randint(1, cfg.style.max_frames) if given else 1
        null = torch.zeros(n_audio, cfg.dim)
    elif cfg.chroma is not None:
        n_audio = cfg.chroma.chroma_length
        null = torch.linspace(-1, 1, n_audio * cfg.dim).view(n_audio, cfg.dim)
    else:
        return None, None
    audio = torch.randn(n_audio, cfg.dim, generator=generator)
    return audio if given else None, null


@torch.no_grad()
def engine_logits(lm: LMModel, sequence: Tensor, rows: Sequence[RowCondition]) -> Tensor:
    """Teacher-forced logits [B, K, S, card] of `sequence` [B, K, S], by the engine's steps.

    The same call as the model's own forward pass, which is what they stand beside in tests.
    """
    n_prefix = max(0 if row.prefix is None else len(row.prefix) for row in rows)
    n_text = max(1 if row.cross is None else len(row.cross) for row in rows)
    n_rows, _, n_steps = sequence.shape
    n_cells = round_up(n_prefix + n_steps)
    weights = prepare(lm, "fp32", n_cells)
    state = DecodeState.idle(weights, n_rows, n_cells, n_steps)
    for index, row in enumerate(rows):
        fill_cross(weights, state, [index], [row])
        fill_prefix(weights, state, [index], [row], sequence[index, :, :0])
        state.n_prefix[index] = 0 if row.prefix is None else len(row.prefix)
    logits = []
    for step in range(n_steps):
        shape = StepShape(
            n_keys=round_up(n_prefix + step + 1),
            n_cross_keys=round_up(n_text),
            n_leads=n_rows,
            n_texts=n_rows,
            filters=FilterShape(),
        )
        logits.append(step_logits(weights, state, shape, sequence[:, :, step]))
        state.step += 1
    return torch.stack(logits, dim=2)


def engine_codes(
    lm: LMModel,
    conditions: ClipConditions,
    n_frames: int,
    *,
    seed: int = 0,
    sampling: SamplingParams,
    prompt_codes: Tensor | None = None,
) -> Tensor:
    """Codes [K, T] of one clip by the engine: the same call as `LMModel.generate`."""
    request = Request("x", conditions, n_frames, seed, sampling, prompt_codes)
    codes = run(Engine(lm, EngineOptions(slots=2, max_frames=n_frames)), [request])["x"].codes
    assert codes is not None
    return codes


def in_windows(
    request: Request, rng: random.Random, lm: LMModel, window: int, stride: int
) -> Request:
    """The same clip in windows, each with audio of its own."""
    windows = plan_windows(
        request.n_frames, window=window, stride=stride, n_prompt=request.n_prompt
    )
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    text = request.conditions.text
    later = [ClipConditions(text, *random_audio(rng, lm, generator)) for _ in windows]
    return replace(request, windows=windows, later_conditions=later.__getitem__)


def run(engine: Engine, requests: list[Request]) -> dict[str, EngineOutput]:
    """Feed the engine as a job does, whenever it has room, until everything ended."""
    waiting, ended = list(requests), {}
    while waiting or engine.n_active or engine.n_waiting:
        while waiting and engine.has_room:
            engine.submit(waiting.pop(0))
        for finished in engine.step():
            ended[finished.key] = finished
    return ended
