"""Writes the trained models as a folder in transformers' format."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    EncodecModel,
    GenerationConfig,
    MusicgenMelodyConfig,
    MusicgenMelodyDecoderConfig,
    MusicgenMelodyFeatureExtractor,
    MusicgenMelodyForConditionalGeneration,
)

from musicgen.checkpoints.transformers_names import transformers_lm
from musicgen.config import LMConfig
from musicgen.tiny.music import SAMPLE_RATE_HZ
from musicgen.tiny.training.card import write_card
from musicgen.tiny.training.figures import Entry, Table
from musicgen.tiny.training.recipe import SAMPLING, Recipe
from musicgen.tiny.training.synth import FRAME_RATE_HZ
from musicgen.tiny.training.untrained import Language

TRAINING = "training"  # the key of `config.json` that an untrained checkpoint lacks
BITS = {"bf16": 16, "fp32": 32}
UNUSED_STATE = ("cluster_size", "embed_avg")  # of the codec's training


def export(
    recipe: Recipe, codec: EncodecModel, language: Language, folder: Path, made: dict[str, Any]
) -> None:
    """Writes weights (fp16), configurations, tokenizer and a model card, as yet without figures.

    Args:
        made: What the recipe's budgets came to, kept beside it: `pieces_made`, which the language
            model has read, and what `recipe.what_was_made` gives.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = MusicgenMelodyForConditionalGeneration(_config(codec, language)).eval()
    _fill(model, codec, language)
    lm = language.lm.cfg
    model.generation_config = GenerationConfig(
        bos_token_id=lm.special_token,
        pad_token_id=lm.special_token,
        decoder_start_token_id=lm.special_token,
        do_sample=True,
        top_k=SAMPLING.top_k,
        temperature=SAMPLING.temperature,
        guidance_scale=SAMPLING.cfg_coef,
        max_length=recipe.max_duration_s * FRAME_RATE_HZ + lm.max_delay + 1,  # and its start
    )
    model.half().save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    _extend_config(folder / "config.json", recipe, made)
    language.tokenizer.save_pretrained(folder)
    assert lm.chroma is not None
    MusicgenMelodyFeatureExtractor(
        feature_size=lm.chroma.n_chroma,
        sampling_rate=SAMPLE_RATE_HZ,
        hop_length=lm.chroma.hop_length,
        chunk_length=recipe.max_duration_s,
        n_fft=lm.chroma.n_fft,
        num_chroma=lm.chroma.n_chroma,
    ).save_pretrained(folder)
    write_card(folder, {})


def is_trained(folder: Path) -> bool:
    """Whether a checkpoint in `folder` says that it was trained here."""
    return TRAINING in json.loads((folder / "config.json").read_text(encoding="utf-8"))


def training_figures(folder: Path) -> Table:
    """What the machine made of the recipe's time for the language model.

    Returns:
        `language_steps`, of both its stages, and `language_bits`, of the number format that it
        computed in. Both or the second are left out if `folder` is no checkpoint that says so.
    """
    path = folder / "config.json"
    if not path.is_file():
        return {}
    training = json.loads(path.read_text(encoding="utf-8")).get(TRAINING, {})
    if "steps_made" not in training:
        return {}
    steps, dtype = training["steps_made"], training.get("language_dtype")
    figures = {"language_steps": Entry(steps["language"] + steps["finish"], None, None)}
    if dtype is not None:
        figures["language_bits"] = Entry(BITS[dtype], None, None)
    return figures


def _config(codec: EncodecModel, language: Language) -> MusicgenMelodyConfig:
    lm: LMConfig = language.lm.cfg
    decoder = MusicgenMelodyDecoderConfig(
        vocab_size=lm.card,
        num_hidden_layers=lm.n_layers,
        ffn_dim=lm.ffn_dim,
        num_attention_heads=lm.n_heads,
        hidden_size=lm.dim,
        num_codebooks=lm.n_codebooks,
        pad_token_id=lm.special_token,
        bos_token_id=lm.special_token,
        dropout=0.0,
    )
    assert lm.chroma is not None
    return MusicgenMelodyConfig(
        text_encoder=language.text.config.to_dict(),
        audio_encoder=codec.config.to_dict(),
        decoder=decoder.to_dict(),
        num_chroma=lm.chroma.n_chroma,
        chroma_length=lm.chroma.chroma_length,
    )


def _fill(
    model: MusicgenMelodyForConditionalGeneration, codec: EncodecModel, language: Language
) -> None:
    parts: dict[str, dict[str, Tensor]] = {
        "text_encoder.": language.text.state_dict(),
        "audio_encoder.": codec.state_dict(),
        "": transformers_lm(language.lm.state_dict()),
    }
    state = {prefix + name: value for prefix, part in parts.items() for name, value in part.items()}
    missing, unknown = model.load_state_dict(state, strict=False)
    missing = [name for name in missing if not name.endswith("embed_positions.weights")]
    if missing or unknown:
        raise RuntimeError(f"tensors without a place: missing {missing}, unknown {unknown}")
    if model.config.text_encoder.d_model == model.config.decoder.hidden_size:
        raise ValueError("transformers leaves the text projection out where the widths agree")
    with torch.no_grad():
        for name, buffer in model.audio_encoder.named_buffers():
            if name.endswith(UNUSED_STATE):
                buffer.zero_()  # statistics of training, which nothing reads again


def _extend_config(path: Path, recipe: Recipe, made: dict[str, Any]) -> None:
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    config["max_duration_s"] = float(recipe.max_duration_s)
    config[TRAINING] = {**recipe.as_json(), **made}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
