"""The model named `debug`: random weights from a fixed seed, for tests of programs that call us.

It has the rates and widths of AudioCraft's model of that name (32 kHz mono, 25 frames per second, 4
codebooks of 400 codes) and makes noise, in a fraction of a second and without any file.
"""

import hashlib
import math
import zlib
from types import SimpleNamespace

import torch
from transformers import EncodecConfig, T5Config

from musicgen.checkpoints.describe import ModelInfo
from musicgen.codec.codec import CompressionModel
from musicgen.codec.encodec import Encodec
from musicgen.conditioning.t5 import T5Encoder
from musicgen.conditioning.text import TextEncoder
from musicgen.config import LMConfig
from musicgen.lm.model import LMModel

DEBUG = "debug"
SEED = 0
WORDS, END = 128, 1  # of the tokenizer; 0 is padding, 1 the end of a text
DIM, N_CODEBOOKS, CARD = 16, 4, 400
RATIOS, SAMPLE_RATE_HZ = [16, 10, 8], 32_000


def debug_info() -> ModelInfo:
    """What the model is; its hash stands for this file's choices, since there are no weights."""
    hop = math.prod(RATIOS)
    return ModelInfo(
        name=DEBUG,
        path=DEBUG,
        kind="text",
        sample_rate_hz=SAMPLE_RATE_HZ,
        channels=1,
        frame_rate_hz=SAMPLE_RATE_HZ // hop,
        hop_samples=hop,
        n_codebooks=N_CODEBOOKS,
        max_duration_s=30.0,
        chroma=None,
        weights_hash=hashlib.sha256(f"{DEBUG} {SEED}".encode()).hexdigest()[:32],
        revision=None,
        weights_licence="Apache-2.0",
    )


def debug_models() -> tuple[LMModel, TextEncoder, CompressionModel]:
    """The models, with the same numbers in every process; the global generator is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        lm = LMModel(_lm_config())
        t5 = T5Encoder(
            T5Config(vocab_size=WORDS + 2, d_model=DIM, d_kv=4, d_ff=32, num_layers=1, num_heads=4)
        )
        encodec = Encodec(_codec_config())
        for name, buffer in encodec.named_buffers():
            if name.endswith("codebook.embed"):
                buffer.normal_()
    text = TextEncoder(t5, _tokens)
    return lm.eval().requires_grad_(False), text, CompressionModel(encodec)


def _lm_config() -> LMConfig:
    return LMConfig(
        dim=DIM,
        n_heads=4,
        n_layers=2,
        ffn_dim=4 * DIM,
        n_codebooks=N_CODEBOOKS,
        card=CARD,
        delays=tuple(range(N_CODEBOOKS)),
        text_dim=DIM,
        fuse="cross",
    )


def _codec_config() -> EncodecConfig:
    return EncodecConfig(
        target_bandwidths=[0.9],  # kbit/s: 4 codebooks
        sampling_rate=SAMPLE_RATE_HZ,
        audio_channels=1,
        num_filters=4,
        hidden_size=32,
        codebook_dim=32,
        codebook_size=CARD,
        upsampling_ratios=RATIOS,
        use_causal_conv=False,
        use_conv_shortcut=False,
    )


def _tokens(text: str) -> SimpleNamespace:
    """One token a word, by its checksum."""
    ids = [2 + zlib.crc32(word.encode()) % WORDS for word in text.lower().split()]
    return SimpleNamespace(input_ids=[*ids, END])
