"""Reads the weights of a checkpoint in any layout: language model, T5, EnCodec and MERT."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import (
    EncodecConfig,
    MusicgenDecoderConfig,
    MusicgenMelodyDecoderConfig,
    PreTrainedConfig,
    T5Config,
)

from musicgen.checkpoints.adapters import merge_adapter
from musicgen.checkpoints.audiocraft import TEXT_PROJECTION, lm_file, lm_state, read_package
from musicgen.checkpoints.audiocraft_config import read_lm_settings
from musicgen.checkpoints.debug import DEBUG_MODELS, debug_info, debug_models
from musicgen.checkpoints.describe import ModelInfo, describe, own_lm_config
from musicgen.checkpoints.errors import CheckpointError
from musicgen.checkpoints.layout import CONFIG, read_json
from musicgen.checkpoints.submodel_folders import GIVEN
from musicgen.checkpoints.submodels import (
    State,
    as_fp32,
    build_codec,
    build_compression_model,
    build_style_encoder,
    build_text,
    load_codec,
    load_strictly,
    load_style_encoder,
    load_text,
    load_tokenizer,
    tensors,
)
from musicgen.checkpoints.transformers_names import MELODY_PROJECTION, POSITIONS, rename_lm
from musicgen.codec.codec import CompressionModel
from musicgen.codec.encodec import Encodec
from musicgen.conditioning.features import CodecFeatures, MertFeatures
from musicgen.conditioning.text import TextEncoder
from musicgen.config import LMConfig, ModelSource
from musicgen.lm.int8 import round_to_int8
from musicgen.lm.model import LMModel
from musicgen.modules.unfilled import unfilled

__all__ = ["Checkpoint", "CheckpointError", "Submodels", "load", "load_checkpoint"]

if TYPE_CHECKING:
    from transformers import EncodecModel, HubertModel

PARTS = ("lm", "text_encoder", "audio_encoder", "style_encoder")  # prefixes in our own layout


@dataclass(frozen=True)
class Checkpoint:
    """The models of a MusicGen, in fp32 on the CPU.

    Attributes:
        lm: The language model.
        text: T5 and its tokenizer.
        codec: EnCodec.
        style_features: The feature extractor of a style model, or None.
    """

    lm: LMModel
    text: TextEncoder
    codec: CompressionModel
    style_features: nn.Module | None = None


@dataclass(frozen=True)
class Submodels:
    """Sub-models that the caller has loaded already; None: they are read from files.

    Attributes:
        text_encoder: A T5 with its tokenizer.
        codec: An EnCodec.
        style_encoder: A MERT.
    """

    text_encoder: TextEncoder | None = None
    codec: "Encodec | EncodecModel | CompressionModel | None" = None
    style_encoder: "MertFeatures | HubertModel | None" = None


def load(
    source: ModelSource | str | PathLike[str], submodels: Submodels | None = None
) -> tuple[ModelInfo, Checkpoint]:
    """Describes and reads a model.

    Args:
        source: The model, its name alone, or the path of its folder. The names of
            `musicgen.checkpoints.debug` alone are its random models.
        submodels: Loaded modules in place of the checkpoint's own and of those that `source` names.

    Raises:
        ModelNotFoundError: As `describe`.
        CheckpointError: As `describe`, or the sub-models do not fit each other.
    """
    source, given = ModelSource.of(source), submodels or Submodels()
    if source.name in DEBUG_MODELS and source == ModelSource(source.name) and submodels is None:
        return debug_info(source.name), Checkpoint(*debug_models(source.name))
    roles: dict[str, Any] = {
        role: GIVEN for role, module in vars(given).items() if module is not None
    }
    info = describe(replace(source, **roles))
    checkpoint = load_checkpoint(info, given)
    codec_model = checkpoint.codec
    if codec_model.sample_rate != info.sample_rate_hz:
        raise CheckpointError(
            f"the codec makes {codec_model.sample_rate} Hz, model {source.name!r} "
            f"{info.sample_rate_hz} Hz; they do not belong together"
        )
    rates = {"frame_rate_hz": codec_model.frame_rate, "hop_samples": codec_model.hop_samples}
    return replace(info, **rates), checkpoint


def load_checkpoint(info: ModelInfo, given: Submodels | None = None) -> Checkpoint:
    """Reads the models that `info` (from `describe`) points at, except the `given` ones.

    Raises:
        CheckpointError: Weights are missing or of another shape, or sub-models do not fit.
    """
    given = given or Submodels()
    read = {"transformers": _read_transformers, "own": _read_own, "audiocraft": _read_audiocraft}
    lm, text, codec, style_encoder = read[info.layout](info, given)
    for adapter in info.adapters:
        merge_adapter(lm, adapter)
    if info.weights == "int8":
        round_to_int8(lm)
    if text.dim != lm.cfg.text_dim:
        raise CheckpointError(
            f"{info.path}: the model reads a T5 of width {lm.cfg.text_dim}, the text encoder has "
            f"{text.dim}; give the T5 that it was trained with"
        )
    codec = build_compression_model(
        Path(info.path),
        codec,
        info.channels,
        n_codebooks=lm.cfg.n_codebooks,
        card=lm.cfg.card,
        n_used=info.codec_n_q,
    )
    features: nn.Module | None = style_encoder
    if lm.cfg.style is not None and lm.cfg.style.features == "encodec":
        features = CodecFeatures(codec)
    return Checkpoint(lm=lm, text=text, codec=codec, style_features=features)


Models = tuple[LMModel, TextEncoder, Encodec | CompressionModel, MertFeatures | None]


def _text(info: ModelInfo, given: Submodels) -> TextEncoder | None:
    """The text encoder where it does not come from the checkpoint's own folder, else None."""
    if given.text_encoder is not None or info.submodels.text_encoder in (None, GIVEN):
        return given.text_encoder
    return load_text(Path(info.submodels.text_encoder))


def _codec(info: ModelInfo, given: Submodels) -> Encodec | CompressionModel | None:
    if given.codec is not None:
        codec = given.codec
        return codec if isinstance(codec, CompressionModel) else Encodec.of(codec)
    if info.submodels.codec in (None, GIVEN):
        return None
    return load_codec(Path(info.submodels.codec))


def _style_encoder(info: ModelInfo, given: Submodels) -> MertFeatures | None:
    if isinstance(given.style_encoder, MertFeatures):
        return given.style_encoder
    if given.style_encoder is not None:
        return MertFeatures(given.style_encoder)
    if info.submodels.style_encoder in (None, GIVEN):
        return None
    return load_style_encoder(Path(info.submodels.style_encoder))


def _read_audiocraft(info: ModelInfo, given: Submodels) -> Models:
    package = read_package(lm_file(Path(info.path)))
    settings = read_lm_settings(package)
    state = {name: as_fp32(tensor) for name, tensor in lm_state(package).items()}
    text = _text(info, given)
    assert text is not None  # `describe` raises where there is no T5
    codec = _codec(info, given) or load_codec(Path(info.path))
    lm = _build_lm(package.path, settings.lm, state)
    return lm, text, codec, _style_encoder(info, given)


def _read_own(info: ModelInfo, given: Submodels) -> Models:
    folder = Path(info.path)
    config = read_json(folder / CONFIG)
    states = _split(tensors(folder), PARTS)
    style_encoder = _style_encoder(info, given)
    if style_encoder is None and config.get("style_encoder"):
        style_encoder = build_style_encoder(
            folder, config["style_encoder"], states["style_encoder"]
        )
    return (
        _build_lm(folder, own_lm_config(folder), states["lm"]),
        *_text_and_codec(info, given, config, states),
        style_encoder,
    )


def _read_transformers(info: ModelInfo, given: Submodels) -> Models:
    folder = Path(info.path)
    config = read_json(folder / CONFIG)
    config |= {name: config.get(name, {}) for name in ("text_encoder", "audio_encoder", "decoder")}
    _check_types(folder, config)
    decoder_class = MusicgenMelodyDecoderConfig if info.kind == "melody" else MusicgenDecoderConfig
    decoder = decoder_class.from_dict(config["decoder"])
    _check_decoder(folder, decoder)
    states = _split(tensors(folder), ("text_encoder", "audio_encoder"))
    states[""].pop(POSITIONS, None)
    text, codec = _text_and_codec(info, given, config, states)
    codec = build_compression_model(
        folder, codec, info.channels, decoder.num_codebooks, decoder.vocab_size
    )
    lm = _build_lm(folder, _lm_config(info, decoder, text.dim), rename_lm(states[""]))
    return lm, text, codec, None


def _text_and_codec(
    info: ModelInfo, given: Submodels, config: dict[str, Any], states: dict[str, State]
) -> tuple[TextEncoder, Encodec | CompressionModel]:
    folder = Path(info.path)
    text, codec = _text(info, given), _codec(info, given)
    if text is None:
        text_config = T5Config.from_dict(config["text_encoder"])
        model = build_text(folder, text_config, states["text_encoder"])
        text = TextEncoder(model, load_tokenizer(folder, text_config))
    if codec is None:
        codec_config = EncodecConfig.from_dict(config["audio_encoder"])
        codec = build_codec(folder, codec_config, states["audio_encoder"])
    return text, codec


def _split(named: Iterable[tuple[str, Tensor]], parts: tuple[str, ...]) -> dict[str, State]:
    """Tensors by the part that their name begins with, "" for the rest."""
    states: dict[str, State] = {part: {} for part in (*parts, "")}
    for key, tensor in named:
        part, _, name = key.partition(".")
        if part in parts:
            states[part][name] = tensor
        else:
            states[""][key] = tensor
    return states


def _check_types(folder: Path, config: dict[str, Any]) -> None:
    for part, wanted in {"text_encoder": "t5", "audio_encoder": "encodec"}.items():
        found = config[part].get("model_type", wanted)
        if found != wanted:
            raise CheckpointError(
                f"{folder / CONFIG}: {part} is a {found!r}, only {wanted!r} is known"
            )


def _check_decoder(folder: Path, decoder: PreTrainedConfig) -> None:
    wanted = {"activation_function": "gelu", "scale_embedding": False}
    for name, value in wanted.items():
        if (found := getattr(decoder, name)) != value:
            raise CheckpointError(
                f"{folder / CONFIG}: decoder.{name}={found!r}, only {value!r} is known"
            )


def _lm_config(info: ModelInfo, decoder: PreTrainedConfig, text_dim: int) -> LMConfig:
    n_codebooks, channels = decoder.num_codebooks, decoder.audio_channels
    if decoder.hidden_size % decoder.num_attention_heads or decoder.hidden_size % 2:
        raise CheckpointError(
            f"{Path(info.path) / CONFIG}: decoder.hidden_size={decoder.hidden_size} must be even "
            f"and a multiple of decoder.num_attention_heads={decoder.num_attention_heads}"
        )
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


def _build_lm(folder: Path, config: LMConfig, state: State) -> LMModel:
    # transformers leaves a projection out where the widths agree.
    if config.text_dim == config.dim:
        _identity(state, TEXT_PROJECTION, config.dim)
    if config.chroma is not None and config.chroma.n_chroma == config.dim:
        _identity(state, MELODY_PROJECTION, config.dim)
    with unfilled():
        lm = LMModel(config)
    load_strictly(folder, "language model", lm, state)
    return lm.eval().requires_grad_(False)


def _identity(state: State, name: str, dim: int) -> None:
    state.setdefault(f"{name}.weight", torch.eye(dim))
    state.setdefault(f"{name}.bias", torch.zeros(dim))
