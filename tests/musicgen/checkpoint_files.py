"""Small random MusicGens in transformers' format, made where a test needs them."""

import shutil
from pathlib import Path

import torch
from transformers import (
    EncodecConfig,
    MusicgenConfig,
    MusicgenDecoderConfig,
    MusicgenForConditionalGeneration,
    MusicgenMelodyConfig,
    MusicgenMelodyDecoderConfig,
    MusicgenMelodyFeatureExtractor,
    MusicgenMelodyForConditionalGeneration,
    PreTrainedModel,
    T5Config,
)

from musicgen.checkpoints.describe import TINY_FOLDER

CARD = 32
SAMPLE_RATE_HZ = 1600
HOP = 32  # 50 frames per second
GOLDEN = Path(__file__).parents[1] / "golden"


def golden(name: str) -> dict:
    """A file of numbers that AudioCraft computed."""
    return torch.load(GOLDEN / name, weights_only=True)


def save_text_model(
    folder: Path, *, channels: int = 1, text_dim: int = 24, shard: str = "5GB"
) -> PreTrainedModel:
    """A cross-attention model in `folder`, and the same in transformers."""
    decoder = MusicgenDecoderConfig(**_decoder(channels))
    config = MusicgenConfig(
        text_encoder=_text(text_dim).to_dict(),
        audio_encoder=_codec().to_dict(),
        decoder=decoder.to_dict(),
    )
    torch.manual_seed(1)
    model = MusicgenForConditionalGeneration(config)
    return _save(model, folder, shard)


def save_melody_model(folder: Path) -> PreTrainedModel:
    """A melody model of a 6 s window in `folder`, and the same in transformers."""
    decoder = MusicgenMelodyDecoderConfig(**_decoder(channels=1))
    config = MusicgenMelodyConfig(
        text_encoder=_text(24).to_dict(),
        audio_encoder=_codec().to_dict(),
        decoder=decoder.to_dict(),
        num_chroma=12,
        chroma_length=38,
        max_duration_s=6.0,
    )
    torch.manual_seed(2)
    model = MusicgenMelodyForConditionalGeneration(config)
    feature_extractor().save_pretrained(folder)
    return _save(model, folder, "5GB")


def feature_extractor() -> MusicgenMelodyFeatureExtractor:
    """transformers' reader of melodies, as `save_melody_model` stores it."""
    return MusicgenMelodyFeatureExtractor(
        sampling_rate=SAMPLE_RATE_HZ, n_fft=1024, hop_length=256, chunk_length=6
    )


def _text(dim: int) -> T5Config:
    return T5Config(vocab_size=512, d_model=dim, d_kv=8, d_ff=32, num_layers=2, num_heads=2)


def _codec() -> EncodecConfig:
    return EncodecConfig(
        sampling_rate=SAMPLE_RATE_HZ,
        num_filters=2,
        hidden_size=8,
        codebook_size=CARD,
        upsampling_ratios=[4, 4, 2],
        target_bandwidths=[1.0],
        use_causal_conv=False,
        use_conv_shortcut=False,
        num_lstm_layers=1,
    )


def _decoder(channels: int) -> dict:
    return {
        "vocab_size": CARD,
        "num_hidden_layers": 3,
        "ffn_dim": 64,
        "num_attention_heads": 2,
        "hidden_size": 32,
        "num_codebooks": 4 * channels,
        "audio_channels": channels,
        "pad_token_id": CARD,
        "bos_token_id": CARD,
        "initializer_factor": 0.3,
    }


@torch.no_grad()
def _save(model: PreTrainedModel, folder: Path, shard: str) -> PreTrainedModel:
    """Moves what initialisation leaves at 0 or 1, so that a mix-up shows, and saves."""
    for name, weight in model.named_parameters():
        if "norm" in name or name.endswith("bias"):
            weight.add_(0.2 * torch.randn_like(weight))
    for layer in model.audio_encoder.quantizer.layers:
        layer.codebook.embed.normal_()
    model.generation_config.update(
        pad_token_id=CARD, bos_token_id=CARD, decoder_start_token_id=CARD, max_length=1503
    )
    model.save_pretrained(folder, max_shard_size=shard)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TINY_FOLDER / name, folder / name)
    model.set_attn_implementation("eager")  # its fused attention is NaN where all keys are masked
    return model.eval()
