"""Writes `checkpoint/`, a small MusicGen of the melody kind with seeded random weights.

It has every part of the real thing (T5, chroma, language model, EnCodec, tokenizer) in
transformers' format and under one megabyte, so that everything runs offline. Nothing is trained:
its music is noise, but finite, audible, and different for every prompt, melody and seed.

    python -m musicgen.tiny.make
"""

import json
from pathlib import Path

import torch
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from torch import Tensor
from transformers import (
    EncodecConfig,
    EncodecModel,
    GenerationConfig,
    MusicgenMelodyConfig,
    MusicgenMelodyDecoderConfig,
    MusicgenMelodyFeatureExtractor,
    MusicgenMelodyForConditionalGeneration,
    PreTrainedTokenizerFast,
    T5Config,
)

FOLDER = Path(__file__).parent / "checkpoint"
SEED = 20
SAMPLE_RATE_HZ, MAX_DURATION_S = 16_000, 30
CARD, N_CODEBOOKS, DIM, N_CHROMA = 128, 4, 64, 12
N_FFT, HOP_LENGTH, CHROMA_LENGTH = 8_192, 2_048, 235
VOCABULARY = 512
RMS = 0.12  # of decoded random codes, as a share of full scale

WORDS = """
ambient acoustic bass beat bell blues bright calm classical cinematic dance dark deep disco drone
drum drums dub eighties electric electronic energetic epic fast flute folk funk gentle guitar happy
hard heavy house jazz key kick lead lofi loop loud major melancholic mellow melody metal minor
nineties organ pad piano pluck pop punk quiet reggae rock sad saxophone slow smooth snare soft soul
strings swing synth techno tempo trance trumpet upbeat violin voice waltz warm with and the a an in
of on for at bpm
"""

CARD_TEXT = """---
license: apache-2.0
---
# tiny

A small MusicGen of the melody kind with seeded random weights: 16 kHz mono, 4 codebooks, 50 frames
per second. It is untrained (it makes noise) and exists so that everything runs offline.
Written by `python -m musicgen.tiny.make`.
"""


def main() -> None:
    """Rewrites the checkpoint folder."""
    torch.set_num_threads(1)  # the same sums, whatever the machine
    FOLDER.mkdir(exist_ok=True)
    generator = torch.Generator().manual_seed(SEED)
    model = MusicgenMelodyForConditionalGeneration(_config()).eval()
    _fill_transformers(model, generator)
    _fill_codec(model.audio_encoder, generator)
    model.generation_config = GenerationConfig(
        bos_token_id=CARD,
        pad_token_id=CARD,
        decoder_start_token_id=CARD,
        do_sample=True,
        guidance_scale=3.0,
        max_length=MAX_DURATION_S * 50 + N_CODEBOOKS - 1,
    )
    model.half().save_pretrained(FOLDER)
    (FOLDER / "model.safetensors").chmod(0o644)
    _add_max_duration(FOLDER / "config.json")
    _tokenizer().save_pretrained(FOLDER)
    MusicgenMelodyFeatureExtractor(
        feature_size=N_CHROMA,
        sampling_rate=SAMPLE_RATE_HZ,
        hop_length=HOP_LENGTH,
        chunk_length=MAX_DURATION_S,
        n_fft=N_FFT,
        num_chroma=N_CHROMA,
    ).save_pretrained(FOLDER)
    (FOLDER / "README.md").write_text(CARD_TEXT, encoding="utf-8")


def _config() -> MusicgenMelodyConfig:
    text = T5Config(
        vocab_size=VOCABULARY,
        d_model=32,
        d_kv=16,
        d_ff=64,
        num_layers=2,
        num_heads=2,
    )
    codec = EncodecConfig(
        sampling_rate=SAMPLE_RATE_HZ,
        num_filters=4,
        hidden_size=32,
        codebook_size=CARD,
        upsampling_ratios=[2, 4, 5, 8],
        target_bandwidths=[1.4],  # kbit/s: 4 codebooks of 7 bits at 50 Hz
        use_causal_conv=False,
        use_conv_shortcut=False,
        num_lstm_layers=1,
    )
    decoder = MusicgenMelodyDecoderConfig(
        vocab_size=CARD,
        num_hidden_layers=2,
        ffn_dim=4 * DIM,
        num_attention_heads=4,
        hidden_size=DIM,
        num_codebooks=N_CODEBOOKS,
        pad_token_id=CARD,
        bos_token_id=CARD,
        dropout=0.0,
    )
    return MusicgenMelodyConfig(
        text_encoder=text.to_dict(),
        audio_encoder=codec.to_dict(),
        decoder=decoder.to_dict(),
        num_chroma=N_CHROMA,
        chroma_length=CHROMA_LENGTH,
    )


@torch.no_grad()
def _fill_transformers(
    model: MusicgenMelodyForConditionalGeneration, generator: torch.Generator
) -> None:
    """Weights wide enough that attention and logits are peaked: the conditions then matter."""
    parts = {
        "text_encoder": model.text_encoder,
        "decoder": model.decoder,
        "enc_to_dec_proj": model.enc_to_dec_proj,
        "audio_enc_to_dec_proj": model.audio_enc_to_dec_proj,
    }
    for part, module in parts.items():
        for name, weight in module.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if "norm" in name:
                weight.copy_(0.1 * noise + (0 if name.endswith("bias") else 1))
            elif weight.ndim == 1 or "embed" in name or "shared" in name:
                weight.copy_(noise)
            else:
                weight.copy_(noise * _gain(part, name) / weight.shape[1] ** 0.5)


def _gain(part: str, name: str) -> float:
    if "relative_attention_bias" in name or (part == "text_encoder" and "SelfAttention.q" in name):
        return 0.3  # T5 does not scale its attention scores
    if "q_proj" in name or "k_proj" in name:
        return 1.8
    if "lm_heads" in name:
        return 2.0
    return 6.0 if part == "audio_enc_to_dec_proj" else 1.5


@torch.no_grad()
def _fill_codec(codec: EncodecModel, generator: torch.Generator) -> None:
    """Random filters, codebooks at the scale of the latents, and an output of a usual level."""
    for name, weight in codec.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        if weight.ndim == 1:
            weight.copy_(0.05 * noise)
        elif name.endswith("original0"):  # weight norm: the length of a filter
            weight.fill_(1.5)
        elif name.endswith("original1"):
            weight.copy_(noise)
        else:  # LSTM
            weight.copy_(noise / weight.shape[1] ** 0.5)
    latents = codec.encoder(_probe())  # [1, D, T]
    spread, mean = latents.std(), latents.mean(dim=(0, 2))
    for level, layer in enumerate(codec.quantizer.layers):
        noise = torch.randn(layer.codebook.embed.shape, generator=generator)
        layer.codebook.embed.copy_(noise * spread * 0.7**level + (mean if level == 0 else 0))
        layer.codebook.embed_avg.copy_(layer.codebook.embed)
        layer.codebook.cluster_size.fill_(1)
    codes = torch.randint(CARD, (N_CODEBOOKS, 1, 500), generator=generator)
    wav = codec.decoder(codec.quantizer.decode(codes))
    last = codec.decoder.layers[-1].conv
    last.bias.sub_(wav.mean())
    level = RMS / wav.std()
    last.bias.mul_(level)
    last.parametrizations.weight.original0.mul_(level)


def _probe() -> Tensor:
    """Two seconds of a falling chord, [1, 1, N]."""
    seconds = torch.arange(2 * SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ
    tones = torch.stack([torch.sin(2 * torch.pi * hz * seconds) for hz in (220, 277, 330, 1760)])
    return (tones.mean(dim=0) * torch.exp(-seconds))[None, None]


def _tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE over a few words of music; every string has tokens, each ends in </s>."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "</s>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(WORDS.split(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


def _add_max_duration(path: Path) -> None:
    config = json.loads(path.read_text(encoding="utf-8"))
    config["max_duration_s"] = float(MAX_DURATION_S)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
