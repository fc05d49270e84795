"""Builds T5, EnCodec and MERT from a configuration and tensors.

Tensors come from safetensors, or from a pickle through torch's restricted unpickler, which executes
nothing. Every tensor must find its place: a missing, left-over or wrongly shaped one is an error
that names it. Code in a checkpoint's folder is ignored.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    EncodecConfig,
    HubertConfig,
    T5Config,
)

from musicgen.checkpoints import limits
from musicgen.checkpoints.audiocraft import (
    CODEC_FILE,
    read_full_package,
    read_tensors,
    rename_codec,
)
from musicgen.checkpoints.audiocraft_config import codec_config
from musicgen.checkpoints.errors import CheckpointError
from musicgen.checkpoints.layout import CONFIG, PICKLED, part_files, read_json, weight_files
from musicgen.codec.codec import CompressionModel
from musicgen.codec.encodec import Encodec
from musicgen.conditioning.features import MertFeatures
from musicgen.conditioning.t5 import T5Encoder
from musicgen.conditioning.text import TextEncoder
from musicgen.modules.unfilled import unfilled

State = dict[str, Tensor]

WEIGHT_NORM = {
    ".weight_g": ".parametrizations.weight.original0",
    ".weight_v": ".parametrizations.weight.original1",
}
CODEBOOK_STATISTICS = (".inited", ".cluster_size", ".embed_avg")  # of training; may be missing
# What a MERT may have that a HuBERT lacks, and the value that means "not there".
MERT_EXTRAS = {"feature_extractor_cqt": False, "deepnorm": False, "attention_relax": -1.0}


def tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Name and fp32 tensor of everything in a folder's safetensors files."""
    for name in weight_files(folder):
        with safe_open(str(folder / name), framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 - the file is no mapping
                yield key, as_fp32(file.get_tensor(key))


def as_fp32(tensor: Tensor) -> Tensor:
    """A copy of `tensor`, in float32 if it holds floating-point numbers.

    It is always a copy: `tensor` may be mapped from a file that is replaced while the model lives.
    """
    return tensor.to(torch.float32 if tensor.is_floating_point() else tensor.dtype, copy=True)


def _part_state(folder: Path) -> State:
    if PICKLED in part_files(folder):
        pickled = read_tensors(folder / PICKLED)
        return {name: as_fp32(tensor) for name, tensor in pickled.items()}
    return dict(tensors(folder))


def load_text(folder: Path) -> TextEncoder:
    """The encoder of a T5, from a folder with its weights and its tokenizer."""
    config = _config(folder, "t5", T5Config)
    state = {
        name: tensor
        for name, tensor in _part_state(folder).items()
        if name.startswith("encoder.") or name == "shared.weight"  # its decoder is not needed
    }
    return TextEncoder(build_text(folder, config, state), load_tokenizer(folder, config))


def load_tokenizer(folder: Path, config: T5Config) -> Any:
    """The tokenizer whose files lie in `folder`."""
    return AutoTokenizer.from_pretrained(str(folder), config=config, local_files_only=True)


def load_codec(folder: Path) -> Encodec:
    """An EnCodec, from a folder in transformers' format or AudioCraft's."""
    if (folder / CODEC_FILE).is_file():
        package = read_full_package(folder / CODEC_FILE)
        codec = EncodecConfig.from_dict(codec_config(package))
        state = {name: as_fp32(tensor) for name, tensor in package.state.items()}
        return build_codec(package.path, codec, rename_codec(state))
    return build_codec(folder, _config(folder, "encodec", EncodecConfig), _part_state(folder))


def load_style_encoder(folder: Path) -> MertFeatures:
    """A MERT, from a folder with its weights."""
    config = read_json(folder / CONFIG)
    return build_style_encoder(folder, config, _part_state(folder))


def _config(folder: Path, model_type: str, kind: type) -> Any:
    config = read_json(folder / CONFIG)
    if (found := config.get("model_type")) != model_type:
        raise CheckpointError(f"{folder / CONFIG}: is a {found!r}, wanted is {model_type!r}")
    return kind.from_dict(config)  # type: ignore[attr-defined]


def build_text(where: Path, config: T5Config, state: State) -> T5Encoder:
    """A T5 encoder from its tensors."""
    limits.check(where, "text_encoder", config.to_dict(), limits.T5)
    shared, tied = "shared.weight", "encoder.embed_tokens.weight"  # one table under two names
    table = state.get(shared, state.get(tied))
    if table is not None:
        state |= {shared: table, tied: table}
    with unfilled():
        model = T5Encoder(config)
    load_strictly(where, "text encoder", model, state)
    return model


def build_codec(where: Path, config: EncodecConfig, state: State) -> Encodec:
    """An EnCodec from its tensors."""
    limits.check_codec(where, "audio_encoder", config.to_dict(), state)
    with unfilled("cpu"):
        model = Encodec(config)
    state = renamed_weight_norm(state)
    for name, value in model.state_dict().items():
        if name.endswith(CODEBOOK_STATISTICS):  # what transformers begins with
            fill = torch.ones if name.endswith(".inited") else torch.zeros
            state.setdefault(name, fill(value.shape))
    load_strictly(where, "codec", model, state)
    return model


def build_style_encoder(where: Path, config: dict[str, Any], state: State) -> MertFeatures:
    """A MERT (or a plain HuBERT) from its tensors."""
    from transformers import HubertModel  # takes longer to import than torch

    limits.check(where, "style_encoder", config, limits.HUBERT)
    for name, absent in MERT_EXTRAS.items():
        if (found := config.get(name, absent)) != absent:
            raise CheckpointError(
                f"{where}: {name}={found!r} is no part of a HuBERT; MERT-v1-95M has none of that"
            )
    known = HubertConfig().to_dict().keys() - {"model_type", "architectures", "auto_map"}
    hubert = HubertConfig(**{name: value for name, value in config.items() if name in known})
    hubert.mask_time_prob = hubert.mask_feature_prob = 0.0  # masks belong to training
    with torch.random.fork_rng(devices=[]):
        model = HubertModel(hubert)
    state = renamed_weight_norm(state)
    state.pop("masked_spec_embed", None)
    load_strictly(where, "style encoder", model, state)
    return MertFeatures(model, int(config.get("sample_rate", 24_000)))


def build_compression_model(
    where: Path,
    model: Encodec | CompressionModel,
    channels: int,
    n_codebooks: int,
    card: int,
    n_used: int | None = None,
) -> CompressionModel:
    """The codec for a language model of `n_codebooks` token streams of `card` tokens each.

    Args:
        where: The checkpoint, for the error.
        model: An EnCodec, mono also where the audio is stereo, or a codec that is ready.
        channels: Of the audio.
        n_codebooks: Streams K.
        card: Tokens of each.
        n_used: How many of its codebooks the codec uses; None is all.
    """
    codec = model if isinstance(model, CompressionModel) else CompressionModel(model, channels)
    if n_used is not None:
        codec.set_num_codebooks(n_used)
    if (codec.num_codebooks, codec.cardinality) != (n_codebooks, card):
        raise CheckpointError(
            f"{where}: the language model speaks {n_codebooks} codebooks of {card}, the codec "
            f"{codec.num_codebooks} of {codec.cardinality}; they do not belong together"
        )
    return codec


def renamed_weight_norm(state: State) -> State:
    """Weight norm under torch's current names, which older files do not have."""
    renamed = {}
    for name, tensor in state.items():
        for old, new in WEIGHT_NORM.items():
            name = name.replace(old, new)
        renamed[name] = tensor
    return renamed


def load_strictly(where: Path, part: str, model: nn.Module, state: State) -> None:
    """Loads `state` into `model`. CheckpointError names missing, unknown and misshapen tensors."""
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
            f"{where}: the {part}'s tensors do not fit its configuration ({details}); "
            "weights and configuration are of different models, or the save was incomplete"
        )
    model.load_state_dict(state, assign=True)
