"""Weights: a folder in transformers' format becomes our language model, T5 and EnCodec.

Tensors are read from safetensors files only (nothing is ever unpickled) and every one of them must
find its place: a missing, left-over or wrongly shaped tensor is an error that names it.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    EncodecConfig,
    EncodecModel,
    MusicgenDecoderConfig,
    MusicgenMelodyDecoderConfig,
    PreTrainedConfig,
    T5Config,
    T5EncoderModel,
)

from musicgen.codec import CompressionModel
from musicgen.conditioning.text import TextEncoder
from musicgen.config import LMConfig
from musicgen.files import CONFIG, ModelInfo, weight_files
from musicgen.lm import LMModel

State = dict[str, Tensor]

# transformers' name -> ours (AudioCraft's), inside a layer and around the layers.
LAYER_NAMES = {
    "self_attn.out_proj": "self_attn.out_proj",
    "encoder_attn.out_proj": "cross_attention.out_proj",
    "fc1": "linear1",
    "fc2": "linear2",
    "self_attn_layer_norm": "norm1",
    "encoder_attn_layer_norm": "norm_cross",
    "final_layer_norm": "norm2",
}
ATTENTION_NAMES = {"self_attn": "self_attn", "encoder_attn": "cross_attention"}
TEXT_PROJECTION = "condition_provider.conditioners.description.output_proj"
MELODY_PROJECTION = "condition_provider.conditioners.self_wav.output_proj"
OUTER_NAMES = {
    r"enc_to_dec_proj\.(.+)": rf"{TEXT_PROJECTION}.\1",
    r"audio_enc_to_dec_proj\.(.+)": rf"{MELODY_PROJECTION}.\1",
    r"decoder\.model\.decoder\.embed_tokens\.(.+)": r"emb.\1",
    r"decoder\.model\.decoder\.layer_norm\.(.+)": r"out_norm.\1",
    r"decoder\.lm_heads\.(.+)": r"linears.\1",
}
LAYER = re.compile(r"decoder\.model\.decoder\.layers\.(\d+)\.(.+)\.(weight|bias)")
QKV = re.compile(r"(self_attn|encoder_attn)\.([qkv])_proj")
POSITIONS = "decoder.model.decoder.embed_positions.weights"  # a table that anyone can compute
WEIGHT_NORM = {
    ".weight_g": ".parametrizations.weight.original0",
    ".weight_v": ".parametrizations.weight.original1",
}
CODEBOOK_STATISTICS = (".inited", ".cluster_size", ".embed_avg")  # of training; may be missing


class CheckpointError(ValueError):
    """The folder's configuration or tensors are not those of a MusicGen that we can run."""


@dataclass(frozen=True)
class Checkpoint:
    """The three models of a MusicGen, in fp32 on the CPU."""

    lm: LMModel
    text: TextEncoder
    codec: CompressionModel


def load_checkpoint(info: ModelInfo) -> Checkpoint:
    """Reads the models that `info` (from `describe`) points at."""
    folder = Path(info.path)
    config = json.loads((folder / CONFIG).read_bytes())
    parts = {name: config.get(name, {}) for name in ("text_encoder", "audio_encoder", "decoder")}
    _check_types(folder, parts)
    decoder_class = MusicgenMelodyDecoderConfig if info.kind == "melody" else MusicgenDecoderConfig
    text_config = T5Config.from_dict(parts["text_encoder"])
    codec_config = EncodecConfig.from_dict(parts["audio_encoder"])
    decoder_config = decoder_class.from_dict(parts["decoder"])
    _check_decoder(folder, decoder_config, codec_config)

    lm_config = _lm_config(info, decoder_config, text_config.d_model)
    lm_state, text_state, codec_state = _split(folder)
    tokenizer = AutoTokenizer.from_pretrained(
        str(folder), config=text_config, local_files_only=True
    )
    return Checkpoint(
        lm=_build_lm(folder, lm_config, lm_state),
        text=TextEncoder(_build_text(folder, text_config, text_state), tokenizer),
        codec=CompressionModel(_build_codec(folder, codec_config, codec_state), info.channels),
    )


def _check_types(folder: Path, parts: dict[str, dict[str, Any]]) -> None:
    for part, wanted in {"text_encoder": "t5", "audio_encoder": "encodec"}.items():
        found = parts[part].get("model_type", wanted)
        if found != wanted:
            raise CheckpointError(
                f"{folder / CONFIG}: {part} is a {found!r}, only {wanted!r} is known"
            )


def _check_decoder(folder: Path, decoder: PreTrainedConfig, codec: EncodecConfig) -> None:
    wanted = {"activation_function": "gelu", "scale_embedding": False}
    for name, value in wanted.items():
        if (found := getattr(decoder, name)) != value:
            raise CheckpointError(
                f"{folder / CONFIG}: decoder.{name}={found!r}, only {value!r} is known"
            )
    n_coded = codec.num_quantizers * (decoder.audio_channels // codec.audio_channels)
    if decoder.vocab_size != codec.codebook_size or decoder.num_codebooks != n_coded:
        raise CheckpointError(
            f"{folder / CONFIG}: the decoder speaks {decoder.num_codebooks} codebooks of "
            f"{decoder.vocab_size}, the codec {n_coded} of {codec.codebook_size}"
        )


def _lm_config(info: ModelInfo, decoder: PreTrainedConfig, text_dim: int) -> LMConfig:
    n_codebooks, channels = decoder.num_codebooks, decoder.audio_channels
    return LMConfig(
        dim=decoder.hidden_size,
        n_heads=decoder.num_attention_heads,
        n_layers=decoder.num_hidden_layers,
        ffn_dim=decoder.ffn_dim,
        n_codebooks=n_codebooks,
        card=decoder.vocab_size,
        delays=tuple(k // channels for k in range(n_codebooks)),  # left and right go together
        text_dim=text_dim,
        fuse="prepend" if info.kind == "melody" else "cross",
        chroma=info.chroma,
    )


def _tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    for name in weight_files(folder):
        with safe_open(str(folder / name), framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 - the file is no mapping
                yield key, file.get_tensor(key).float()


def _split(folder: Path) -> tuple[State, State, State]:
    """The checkpoint's tensors by model and under the names that each model uses."""
    decoder: State = {}
    text: State = {}
    codec: State = {}
    for key, tensor in _tensors(folder):
        part, _, name = key.partition(".")
        if part == "text_encoder":
            text[name] = tensor
        elif part == "audio_encoder":
            for old, new in WEIGHT_NORM.items():
                name = name.replace(old, new)
            codec[name] = tensor
        elif key != POSITIONS:
            decoder[key] = tensor
    return rename_lm(decoder), text, codec


def rename_lm(tensors: State) -> State:
    """From transformers' names to AudioCraft's; q, k and v become one `in_proj_weight`."""
    state: State = {}
    qkv: dict[str, State] = {}
    for key, tensor in tensors.items():
        layer = LAYER.fullmatch(key)
        projection = QKV.fullmatch(layer[2]) if layer else None
        if layer and projection:
            attention = f"transformer.layers.{layer[1]}.{ATTENTION_NAMES[projection[1]]}"
            qkv.setdefault(f"{attention}.in_proj_{layer[3]}", {})[projection[2]] = tensor
        elif layer:
            name = LAYER_NAMES.get(layer[2], layer[2])
            state[f"transformer.layers.{layer[1]}.{name}.{layer[3]}"] = tensor
        else:
            state[_outer_name(key)] = tensor
    for name, parts in qkv.items():
        state[name] = torch.cat([parts[letter] for letter in "qkv" if letter in parts])
    return state


def _outer_name(key: str) -> str:
    for pattern, replacement in OUTER_NAMES.items():
        if match := re.fullmatch(pattern, key):
            return match.expand(replacement)
    return key


def _build_lm(folder: Path, config: LMConfig, state: State) -> LMModel:
    # transformers leaves a projection out where the widths agree.
    if config.text_dim == config.dim:
        _identity(state, TEXT_PROJECTION, config.dim)
    if config.chroma is not None and config.chroma.n_chroma == config.dim:
        _identity(state, MELODY_PROJECTION, config.dim)
    with torch.device("meta"):
        lm = LMModel(config)
    _load(folder, "language model", lm, state)
    return lm.eval().requires_grad_(False)


def _identity(state: State, name: str, dim: int) -> None:
    state.setdefault(f"{name}.weight", torch.eye(dim))
    state.setdefault(f"{name}.bias", torch.zeros(dim))


def _build_text(folder: Path, config: T5Config, state: State) -> T5EncoderModel:
    shared, tied = "shared.weight", "encoder.embed_tokens.weight"  # one table under two names
    table = state.get(shared, state.get(tied))
    if table is not None:
        state |= {shared: table, tied: table}
    with torch.device("meta"):
        model = T5EncoderModel(config)
    _load(folder, "text encoder", model, state)
    return model


def _build_codec(folder: Path, config: EncodecConfig, state: State) -> EncodecModel:
    with torch.random.fork_rng(devices=[]):  # its initial weights must not touch the user's RNG
        model = EncodecModel(config)
    for name, value in model.state_dict().items():
        if name.endswith(CODEBOOK_STATISTICS):
            state.setdefault(name, value)
    _load(folder, "codec", model, state)
    return model


def _load(folder: Path, part: str, model: nn.Module, state: State) -> None:
    expected = model.state_dict()
    wrong = {
        "missing": sorted(expected.keys() - state.keys()),
        "unknown": sorted(state.keys() - expected.keys()),
        "of another shape": [
            f"{name} {list(state[name].shape)} for {list(expected[name].shape)}"
            for name in sorted(expected.keys() & state.keys())
            if state[name].shape != expected[name].shape
        ],
    }
    if any(wrong.values()):
        details = "; ".join(
            f"{len(names)} {what}: {', '.join(names[:4])}{' …' if len(names) > 4 else ''}"
            for what, names in wrong.items()
            if names
        )
        raise CheckpointError(
            f"{folder}: the {part}'s tensors do not fit {CONFIG} ({details}); "
            "weights and configuration are of different models, or the save was incomplete"
        )
    model.load_state_dict(state, assign=True)
