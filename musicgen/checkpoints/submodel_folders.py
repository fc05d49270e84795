"""Sub-models: where a checkpoint's T5, EnCodec and MERT are. Free of torch."""

import math
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from musicgen.checkpoints import limits
from musicgen.checkpoints.audiocraft import (
    CODEC_FILE,
    TRAINING_FILE,
    read_full_package,
    read_package,
)
from musicgen.checkpoints.audiocraft_config import codec_config
from musicgen.checkpoints.errors import CheckpointError, ModelNotFoundError
from musicgen.checkpoints.hub import part_folder
from musicgen.checkpoints.layout import (
    CONFIG,
    FEATURES,
    INDEX,
    PICKLED,
    TOKENIZER_EXTRAS,
    TOKENIZERS,
    part_files,
    read_json,
)
from musicgen.config import ModelSource, StyleConfig

HUB_FILES = [CONFIG, INDEX, "*.safetensors", *TOKENIZERS, *FEATURES, *TOKENIZER_EXTRAS, "README.md"]

GIVEN = "(given as a module)"  # stands for a sub-model that the caller has loaded already


@dataclass(frozen=True)
class SubmodelFolders:
    """Folders of the sub-models that are not in the checkpoint's own folder; None: it is there.

    Attributes:
        text_encoder: The T5 and its tokenizer.
        codec: The EnCodec.
        style_encoder: The MERT of a style model.
    """

    text_encoder: str | None = None
    codec: str | None = None
    style_encoder: str | None = None


def find_audiocraft_parts(
    folder: Path, source: ModelSource, codec: str | None, style: StyleConfig | None
) -> SubmodelFolders:
    """Finds the sub-models of a checkpoint in AudioCraft's layout, which holds no T5 and no MERT.

    Args:
        folder: The checkpoint.
        source: What the user asked for, and the T5 that the checkpoint names where nobody asked.
        codec: The EnCodec that it was trained on, where the checkpoint names one.
        style: Its style conditioner, or None.

    Raises:
        ModelNotFoundError: A T5 or an EnCodec is missing, or a sub-model that the user asked for.
    """
    found = find_parts(replace(source, style_encoder=None))
    style_encoder = source.style_encoder
    codec = _codec_reference(folder, codec) if found.codec is None else found.codec
    if style is not None and style.features == "mert" and style_encoder != GIVEN:
        try:
            style_encoder = _part("style_encoder", style_encoder or style.features_name)
        except ModelNotFoundError:
            if style_encoder is not None:
                raise
            # Text works without MERT; a request with a style says what is missing.
    return SubmodelFolders(found.text_encoder, codec, style_encoder)


def _codec_reference(folder: Path, trained_on: str | None) -> str | None:
    """The folder that holds the checkpoint's EnCodec; None: `compression_state_dict.bin` does."""
    if not (folder / CODEC_FILE).is_file():
        if trained_on is not None and (folder / TRAINING_FILE).is_file():
            return _part("codec", trained_on)
        raise ModelNotFoundError(
            f"{folder}: no {CODEC_FILE}; add it, or say codec=<folder or hub id>"
        )
    package = read_package(folder / CODEC_FILE)
    return None if package.pretrained is None else _part("codec", package.pretrained)


def find_parts(source: ModelSource) -> SubmodelFolders:
    """Finds the sub-models that `source` names. ModelNotFoundError says which one is missing."""
    named = {role.name: getattr(source, role.name) for role in fields(SubmodelFolders)}
    return SubmodelFolders(
        **{
            role: name if name in (None, GIVEN) else _part(role, name)
            for role, name in named.items()
        }
    )


def _part(role: str, name: str) -> str:
    what = {"text_encoder": "text encoder", "codec": "codec", "style_encoder": "style encoder"}
    way_out = f"say {role}=<folder or hub id>"
    return str(
        part_folder(name, HUB_FILES, [PICKLED, *HUB_FILES[:1]], part_files, what[role], way_out)
    )


def codec_facts(folder: Path, codec: str, sample_rate_hz: int) -> dict[str, Any]:
    """Rates of the EnCodec in folder `codec`, as `codec_rates`.

    Raises:
        CheckpointError: Its sample rate is not the model's.
    """
    where = Path(codec) / CODEC_FILE
    if where.is_file():
        config = codec_config(read_full_package(where))
    else:
        where = Path(codec) / CONFIG
        config = read_json(where)
    facts = codec_rates(where, config)
    if facts["sample_rate_hz"] != sample_rate_hz:
        raise CheckpointError(
            f"{where}: a codec of {facts['sample_rate_hz']} Hz, the model in {folder} makes "
            f"{sample_rate_hz} Hz; they do not belong together"
        )
    return facts


def codec_rates(where: Path, codec: dict[str, Any]) -> dict[str, int]:
    """Sample rate (Hz), frame rate (Hz) and samples per frame of a codec's configuration.

    Args:
        where: The file that it was read from, for the error.
        codec: What transformers writes for an EnCodec.

    Raises:
        ModelNotFoundError: A second is no whole number of frames.
        CheckpointError: A number is out of range.
    """
    limits.check(where, "audio_encoder", codec, limits.ENCODEC)
    sample_rate_hz = int(codec.get("sampling_rate", 24_000))  # EncodecConfig's default
    strides = codec.get("upsampling_ratios", (8, 5, 4, 2))
    hop_samples = math.prod(limits.ratios(where, "audio_encoder.upsampling_ratios", strides))
    if sample_rate_hz % hop_samples:
        raise ModelNotFoundError(
            f"{where}: the codec's {sample_rate_hz} Hz are no whole number of frames of "
            f"{hop_samples} samples per second"
        )
    return {
        "sample_rate_hz": sample_rate_hz,
        "frame_rate_hz": sample_rate_hz // hop_samples,
        "hop_samples": hop_samples,
    }
