"""Models of the released shapes with random weights, drawn where they compute."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import EncodecConfig, T5Config

from musicgen.codec.codec import CompressionModel
from musicgen.codec.encodec import Encodec
from musicgen.conditioning.fuser import ClipConditions
from musicgen.conditioning.t5 import T5Encoder
from musicgen.conditioning.text import TextEncoder
from musicgen.config import LMConfig, SamplingParams
from musicgen.engine.engine import Engine, EngineOptions, Request
from musicgen.engine.weights import StepWeights
from musicgen.lm.model import LMModel
from musicgen.modules.unfilled import unfilled
from musicgen.registry import FAMILY
from tests.bench.shapes import SHAPES
from tests.gpu.case import Context
from tests.musicgen.toy import KINDS, Kind, toy_kind

__all__ = ["KINDS", "Kind"]

CHECKED_LAYERS = 8  # of the models that are compared with float64
SAMPLING = SamplingParams(top_k=250, cfg_coef=3.0)
_MEMBERS: dict[Kind, str] = {
    "text": "small",
    "melody": "melody",
    "style": "style",
    "stereo": "stereo-small",
}


def fill(module: nn.Module, seed: int = 0) -> nn.Module:
    """Draw all weights where they are: matrices keep the scale of what goes through them, norms
    differ a little from the identity."""
    generator: torch.Generator | None = None
    for name, parameter in [*module.named_parameters(), *module.named_buffers()]:
        if not parameter.is_floating_point():
            continue
        if generator is None:
            generator = torch.Generator(parameter.device).manual_seed(seed)
        with torch.no_grad():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5, generator=generator)
            else:
                parameter.normal_(std=0.02, generator=generator)
                if "norm" in name and name.endswith("weight"):
                    parameter += 1.0
    return module.eval().requires_grad_(False)


def random_lm(
    cfg: LMConfig, device: torch.device, dtype: torch.dtype = torch.float32, seed: int = 0
) -> LMModel:
    """A language model; in fp16 it takes half the memory until the engine has its weights."""
    with unfilled():
        lm = LMModel(cfg)
    lm = lm.to(dtype).to_empty(device=device)
    filled = fill(lm, seed)
    assert isinstance(filled, LMModel)
    return filled


def checked_lm(kind: Kind, context: Context) -> LMModel:
    """A model of that kind that a float64 copy of fits beside."""
    if context.tiny:
        return toy_kind(kind, dim=32).to(context.device)
    cfg = FAMILY[_MEMBERS[kind]].lm
    return random_lm(replace(cfg, n_layers=min(CHECKED_LAYERS, cfg.n_layers)), context.device)


def small_lm(context: Context) -> LMModel:
    """musicgen-small's shape; a tiny one where models are tiny."""
    cfg = SHAPES["tiny" if context.tiny else "small"].lm
    return random_lm(cfg, context.device)


def codec(context: Context) -> CompressionModel:
    """The EnCodec of the released models."""
    config = EncodecConfig(**SHAPES["tiny" if context.tiny else "small"].codec)
    with torch.device(context.device):
        model = Encodec(config)
    fill(model)
    return CompressionModel(model).to(context.device)


def text_encoder(context: Context) -> TextEncoder:
    """T5-base, and a tokenizer that makes a token of every word."""
    config = T5Config(**SHAPES["tiny" if context.tiny else "small"].text)
    with unfilled():
        model = T5Encoder(config)
    model = model.to_empty(device=context.device)
    fill(model)
    return TextEncoder(model, Words(config.vocab_size))


class Words:
    """A token per word, by its letters."""

    def __init__(self, n_words: int) -> None:
        self.n_words = n_words

    def __call__(self, text: str) -> Any:
        ids = [sum(map(ord, word)) % (self.n_words - 3) + 3 for word in text.split()]
        return SimpleNamespace(input_ids=[*ids, 1])


def prompt(number: int, n_words: int = 15) -> str:
    """A text of so many words that no other number has."""
    return " ".join(f"word{number * 31 + i}" for i in range(n_words))


def conditions(cfg: LMConfig, device: torch.device, n_text: int, seed: int = 0) -> ClipConditions:
    """Random conditions of a clip, melody or style included."""
    generator = torch.Generator().manual_seed(seed)

    def vectors(n: int) -> Tensor:
        return torch.randn(n, cfg.dim, generator=generator).to(device)

    text, n_audio = vectors(n_text), cfg.max_audio_frames
    if not n_audio:
        return ClipConditions(text)
    return ClipConditions(text, vectors(n_audio), vectors(n_audio))


def request(lm: LMModel, key: str, n_frames: int, *, n_text: int = 16) -> Request:
    """A clip with guidance and top-k sampling, whose text is where T5 would leave it."""
    seed = sum(map(ord, key))
    device = lm.condition_provider.conditioners["description"].output_proj.weight.device
    text = conditions(lm.cfg, device, n_text, seed)
    return Request(key, text, n_frames, seed, SAMPLING)


def make_engine(
    lm: LMModel,
    slots: int,
    max_frames: int,
    context: Context,
    weights: StepWeights | None = None,
    *,
    graphs: bool | None = None,
) -> Engine:
    """An engine in the number format of a job on the device."""
    options = EngineOptions(slots, max_frames, dtype=context.dtype, graphs=graphs)
    return Engine(lm, options, weights)


def run_all(engine: Engine, requests: list[Request]) -> dict[str, list[list[int]]]:
    """Tokens of all clips by key."""
    codes: dict[str, list[list[int]]] = {}
    for each in requests:
        engine.submit(each)
    while engine.n_active or engine.n_waiting:
        for clip in engine.step():
            if clip.codes is None:
                raise RuntimeError(f"clip {clip.key} failed") from clip.error
            codes[clip.key] = clip.codes.tolist()
    return codes
