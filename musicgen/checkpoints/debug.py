"""Models for tests of programs that call us: random weights from a fixed seed, without a file.

They have the rates and widths of AudioCraft's models for tests (mono, 25 frames per second, 4
codebooks of 400 codes) and make noise.
"""

import hashlib
import math
import zlib
from types import SimpleNamespace
from typing import NamedTuple

import torch
from transformers import EncodecConfig, T5Config

from musicgen.checkpoints.describe import ModelInfo
from musicgen.codec.codec import CompressionModel
from musicgen.codec.encodec import Encodec
from musicgen.conditioning.t5 import T5Encoder
from musicgen.conditioning.text import TextEncoder
from musicgen.config import LMConfig
from musicgen.lm.model import LMModel

SEED = 0
WORDS, END = 128, 1  # of the tokenizer; 0 is padding, 1 the end of a text
DIM, N_CODEBOOKS, CARD = 16, 4, 400


class DebugModel(NamedTuple):
    """What tells the models apart.

    Attributes:
        sample_rate_hz: Of the audio.
        ratios: Strides of the codec.
        max_duration_s: Longest window.
    """

    sample_rate_hz: int
    ratios: list[int]
    max_duration_s: float


DEBUG_MODELS = {
    "debug": DebugModel(32_000, [16, 10, 8], 30.0),  # AudioCraft's MusicGen of this name
    "debug-16khz": DebugModel(16_000, [8, 8, 10], 10.0),  # and its AudioGen
}


def debug_info(name: str) -> ModelInfo:
    """What a model is; its hash stands for this file's choices, since there are no weights."""
    model = DEBUG_MODELS[name]
    hop = math.prod(model.ratios)
    return ModelInfo(
        name=name,
        path=name,
        kind="text",
        sample_rate_hz=model.sample_rate_hz,
        channels=1,
        frame_rate_hz=model.sample_rate_hz // hop,
        hop_samples=hop,
        n_codebooks=N_CODEBOOKS,
        max_duration_s=model.max_duration_s,
        chroma=None,
        weights_hash=hashlib.sha256(f"{name} {SEED}".encode()).hexdigest()[:32],
        revision=None,
        weights_licence="Apache-2.0",
    )


def debug_models(name: str) -> tuple[LMModel, TextEncoder, CompressionModel]:
    """Language model, text encoder and codec: the same numbers in every process. torch's global
    generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(SEED)
        lm = LMModel(_lm_config())
        t5 = T5Encoder(
            T5Config(vocab_size=WORDS + 2, d_model=DIM, d_kv=4, d_ff=32, num_layers=1, num_heads=4)
        )
        encodec = Encodec(_codec_config(DEBUG_MODELS[name]))
        for buffer_name, buffer in encodec.named_buffers():
            if buffer_name.endswith("codebook.embed"):
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


def _codec_config(model: DebugModel) -> EncodecConfig:
    return EncodecConfig(
        target_bandwidths=[0.9],  # kbit/s: 4 codebooks
        sampling_rate=model.sample_rate_hz,
        audio_channels=1,
        num_filters=4,
        hidden_size=32,
        codebook_dim=32,
        codebook_size=CARD,
        upsampling_ratios=model.ratios,
        use_causal_conv=False,
        use_conv_shortcut=False,
    )


def _tokens(text: str) -> SimpleNamespace:
    """One token a word, by its checksum."""
    ids = [2 + zlib.crc32(word.encode()) % WORDS for word in text.lower().split()]
    return SimpleNamespace(input_ids=[*ids, END])
