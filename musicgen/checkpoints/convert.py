"""Writes a model as one self-contained folder of safetensors, which loads offline.

Text and melody models are written in transformers' layout, so that transformers loads the folder
too. A model that this layout can't represent (a style model, a codec of which only some codebooks
are used) is written in our own:

config.json: `model_type` "musicgen_batch", `layout_version`, `lm` (the fields of LMConfig),
    `channels`, `max_duration_s`, `own_stride_s` (of an AudioGen), `codec_n_q`, and under
    `text_encoder`, `audio_encoder` and `style_encoder` the configurations that transformers writes
    for T5, EnCodec and HuBERT.
model.safetensors: tensors `lm.*` (AudioCraft's names), `text_encoder.*`, `audio_encoder.*`,
    `style_encoder.*` (transformers' names).
The tokenizer's files and README.md (the licence) are the same in both layouts.
"""

import dataclasses
import json
import shutil
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import (
    MusicgenConfig,
    MusicgenDecoderConfig,
    MusicgenMelodyConfig,
    MusicgenMelodyDecoderConfig,
    MusicgenMelodyFeatureExtractor,
)

from musicgen.checkpoints.describe import DEFAULT_MAX_DURATION_S, ModelInfo, describe
from musicgen.checkpoints.layout import CONFIG, OWN, WEIGHTS
from musicgen.checkpoints.load import Checkpoint, Submodels, load
from musicgen.checkpoints.transformers_names import transformers_lm
from musicgen.conditioning.features import MertFeatures
from musicgen.config import ModelSource

LAYOUT_VERSION = 1
DTYPES = {"fp32": torch.float32, "fp16": torch.float16}

State = dict[str, Tensor]


def convert(
    source: ModelSource | str,
    folder: Path | str,
    *,
    dtype: Literal["fp32", "fp16"] = "fp32",
    submodels: Submodels | None = None,
) -> ModelInfo:
    """Reads a model as `MusicGen.get_pretrained` does and writes it to `folder`.

    Args:
        source: The model in any layout, or its name alone.
        folder: Where to write; it must not exist or be empty.
        dtype: Number format of the stored tensors. fp16 halves the folder and rounds fp32 weights.
        submodels: As `load` takes them.

    Returns:
        The description of the new folder.

    Raises:
        ValueError: The folder is not empty, or the model can't be read.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is there and not empty; name a new folder")
    info, checkpoint = load(source, submodels)
    if info.style is not None and checkpoint.style_features is None:
        raise ValueError(
            f"model {info.name!r} came without {info.style.features_name}, which hears the style; "
            "say style_encoder=<folder or hub id>, or the folder would not be complete"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        unfinished.chmod(0o755)
        _write(unfinished, info, checkpoint, DTYPES[dtype])
        unfinished.replace(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return describe(str(folder))


def _write(folder: Path, info: ModelInfo, checkpoint: Checkpoint, dtype: torch.dtype) -> None:
    fits = _fits_transformers(info, checkpoint)
    config, state = (_transformers if fits else _own)(info, checkpoint)
    if fits and info.chroma is not None:
        _feature_extractor(info).save_pretrained(folder)
    stored = {
        name: (tensor.to(dtype) if tensor.is_floating_point() else tensor).contiguous().clone()
        for name, tensor in state.items()
    }
    save_file(stored, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / WEIGHTS).chmod(0o644)
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    (folder / CONFIG).write_text(text, encoding="utf-8")
    checkpoint.text.tokenizer.save_pretrained(folder)  # type: ignore[attr-defined]
    (folder / "README.md").write_text(_card(info), encoding="utf-8")


def _fits_transformers(info: ModelInfo, checkpoint: Checkpoint) -> bool:
    """Whether transformers' layout can represent this model."""
    cfg, codec = checkpoint.lm.cfg, checkpoint.codec
    n_chroma = cfg.chroma.n_chroma if cfg.chroma else 0
    return (
        info.kind != "style"
        and cfg.fuse == ("prepend" if info.kind == "melody" else "cross")
        and cfg.delays == tuple(k // info.channels for k in range(cfg.n_codebooks))
        and cfg.dim not in (cfg.text_dim, n_chroma)  # it has no projection between equal widths
        and codec.num_codebooks == codec.total_codebooks
    )


def _parts(checkpoint: Checkpoint) -> State:
    state = {f"text_encoder.{k}": v for k, v in checkpoint.text.model.state_dict().items()}
    state.pop("text_encoder.encoder.embed_tokens.weight")  # the same table as `shared`
    codec = checkpoint.codec.model.state_dict()
    return state | {f"audio_encoder.{k}": v for k, v in codec.items()}


def _transformers(info: ModelInfo, checkpoint: Checkpoint) -> tuple[dict[str, Any], State]:
    cfg = checkpoint.lm.cfg
    melody = cfg.chroma is not None
    decoder = (MusicgenMelodyDecoderConfig if melody else MusicgenDecoderConfig)(
        vocab_size=cfg.card,
        num_hidden_layers=cfg.n_layers,
        ffn_dim=cfg.ffn_dim,
        num_attention_heads=cfg.n_heads,
        hidden_size=cfg.dim,
        num_codebooks=cfg.n_codebooks,
        audio_channels=info.channels,
        pad_token_id=cfg.card,
        bos_token_id=cfg.card,
    )
    parts = {
        "text_encoder": checkpoint.text.model.config.to_dict(),
        "audio_encoder": checkpoint.codec.model.config.to_dict(),
        "decoder": decoder.to_dict(),
    }
    if cfg.chroma is not None:
        whole = MusicgenMelodyConfig(
            **parts, num_chroma=cfg.chroma.n_chroma, chroma_length=cfg.chroma.chroma_length
        )
    else:
        whole = MusicgenConfig(**parts)
    config = whole.to_dict()
    config["architectures"] = [
        "MusicgenMelodyForConditionalGeneration" if melody else "MusicgenForConditionalGeneration"
    ]
    if info.max_duration_s != DEFAULT_MAX_DURATION_S:
        config["max_duration_s"] = info.max_duration_s
    if info.own_stride_s is not None:
        config["own_stride_s"] = info.own_stride_s
    return config, transformers_lm(checkpoint.lm.state_dict()) | _parts(checkpoint)


def _own(info: ModelInfo, checkpoint: Checkpoint) -> tuple[dict[str, Any], State]:
    codec = checkpoint.codec
    n_q = codec.num_codebooks
    config = {
        "model_type": OWN,
        "layout_version": LAYOUT_VERSION,
        "lm": dataclasses.asdict(checkpoint.lm.cfg),
        "channels": info.channels,
        "max_duration_s": info.max_duration_s,
        "codec_n_q": None if n_q == codec.total_codebooks else n_q,
        "text_encoder": checkpoint.text.model.config.to_dict(),
        "audio_encoder": codec.model.config.to_dict(),
    }
    if info.own_stride_s is not None:
        config["own_stride_s"] = info.own_stride_s
    state = {f"lm.{k}": v for k, v in checkpoint.lm.state_dict().items()} | _parts(checkpoint)
    if isinstance(checkpoint.style_features, MertFeatures):
        mert = checkpoint.style_features
        config["style_encoder"] = mert.model.config.to_dict() | {"sample_rate": mert.sample_rate_hz}
        state |= {f"style_encoder.{k}": v for k, v in mert.model.state_dict().items()}
    return config, state


def _feature_extractor(info: ModelInfo) -> MusicgenMelodyFeatureExtractor:
    assert info.chroma is not None
    return MusicgenMelodyFeatureExtractor(
        feature_size=info.chroma.n_chroma,
        sampling_rate=info.chroma.sample_rate_hz,
        hop_length=info.chroma.hop_length,
        chunk_length=round(info.max_duration_s),
        n_fft=info.chroma.n_fft,
        num_chroma=info.chroma.n_chroma,
    )


def _card(info: ModelInfo) -> str:
    licence = info.weights_licence
    front = f"---\nlicense: {licence.lower()}\n---\n" if licence != "unknown" else ""
    came = info.full_name + (f" at revision {info.revision}" if info.revision else "")
    return f"{front}# {Path(info.name).name}\n\nConverted from {came} ({info.weights_hash}).\n"
