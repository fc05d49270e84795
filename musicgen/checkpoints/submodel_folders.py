"""Sub-models: where a checkpoint's T5, EnCodec and MERT are. Free of torch."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from musicgen.checkpoints.audiocraft import CODEC_FILE, read_full_package, read_package
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
from musicgen.config import StyleConfig

HUB_FILES = [CONFIG, INDEX, "*.safetensors", *TOKENIZERS, *FEATURES, *TOKENIZER_EXTRAS, "README.md"]

GIVEN = "(given as a module)"  # stands for a sub-model that the caller brings along


@dataclass(frozen=True)
class Parts:
    """Folders of sub-models that do not come from the checkpoint's own; None: they do.

    Attributes:
        text_encoder: The T5 and its tokenizer.
        codec: The EnCodec.
        style_encoder: The MERT of a style model.
    """

    text_encoder: str | None = None
    codec: str | None = None
    style_encoder: str | None = None


def find_audiocraft_parts(
    folder: Path, given: Parts, text_encoder: str, style: StyleConfig | None
) -> Parts:
    found = find_parts(Parts(given.text_encoder or text_encoder, given.codec))
    codec, style_encoder = found.codec, given.style_encoder
    if codec is None:
        codec = _codec_reference(folder)
    if style is not None and style.features == "mert" and style_encoder != GIVEN:
        try:
            style_encoder = _part("style_encoder", style_encoder or style.features_name)
        except ModelNotFoundError:
            if style_encoder is not None:
                raise
            # Without it text still works; a row with a style says what is missing.
    return Parts(found.text_encoder, codec, style_encoder)


def _codec_reference(folder: Path) -> str | None:
    """Where the checkpoint's EnCodec is, None: in `compression_state_dict.bin` itself."""
    if not (folder / CODEC_FILE).is_file():
        raise ModelNotFoundError(
            f"{folder}: no {CODEC_FILE}; add it, or say codec=<folder or hub id>"
        )
    package = read_package(folder / CODEC_FILE)
    return None if package.pretrained is None else _part("codec", package.pretrained)


def find_parts(given: Parts) -> Parts:
    return Parts(
        **{
            role: name if name in (None, GIVEN) else _part(role, name)
            for role, name in vars(given).items()
        }
    )


def _part(role: str, name: str) -> str:
    what = {"text_encoder": "text encoder", "codec": "codec", "style_encoder": "style encoder"}
    way_out = f"say {role}=<folder or hub id>"
    return str(
        part_folder(name, HUB_FILES, [PICKLED, *HUB_FILES[:1]], part_files, what[role], way_out)
    )


def codec_facts(folder: Path, codec: str, sample_rate_hz: int) -> dict[str, Any]:
    """Rates of the EnCodec in folder `codec`; they must be those of the model."""
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
    sample_rate_hz = int(codec.get("sampling_rate", 24_000))  # EncodecConfig's default
    hop_samples = math.prod(codec.get("upsampling_ratios", (8, 5, 4, 2)))
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
