"""The table of released models: every shape instantiates, and has the size of the real one."""

import subprocess
import sys

import pytest
import torch
from torch import nn
from transformers import (
    EncodecConfig,
    EncodecModel,
    HubertConfig,
    HubertModel,
    MusicgenDecoderConfig,
    MusicgenForCausalLM,
    MusicgenMelodyDecoderConfig,
    MusicgenMelodyForCausalLM,
    T5Config,
    T5EncoderModel,
)

from musicgen.config import FuseMethod
from musicgen.engine.engine import Engine, EngineOptions
from musicgen.lm.model import LMModel
from musicgen.registry import (
    AUDIOGEN,
    CODEC_16KHZ_PARAMETERS,
    CODEC_PARAMETERS,
    FAMILY,
    MERT_PARAMETERS,
    SHORT_NAMES,
    T5_LARGE_PARAMETERS,
    T5_PARAMETERS,
    row_bytes,
)
from tests.musicgen.toy import toy_lm

# From the table of tensors of the released checkpoints: layers (self-attention 4 D^2, feed-forward
# 8 D^2, norms 4 D, with cross-attention another 4 D^2 + 2 D), last norm 2 D, embeddings 2049 K D,
# heads 2048 K D, text 769 D, then chroma 13 D or the style reader.
EXPECTED = {
    "small": 420_371_456,
    "medium": 1_838_737_920,
    "large": 3_256_956_928,
    "melody": 1_385_625_600,
    "melody-large": 2_451_480_576,
    "style": 1_411_969_536,
    "stereo-small": 437_152_768,
    "stereo-medium": 1_863_909_888,
    "stereo-large": 3_290_519_552,
    "stereo-melody": 1_410_797_568,
    "stereo-melody-large": 2_485_043_200,
    "audiogen-medium": 1_839_131_136,  # the text projection reads 1024 numbers of a T5 large
}


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", FAMILY)
def test_every_released_shape_has_the_size_of_its_checkpoint(name: str) -> None:
    member = FAMILY[name]
    with torch.device("meta"):
        lm = LMModel(member.lm)
    assert size(lm) == member.lm_parameters == EXPECTED[name]


@pytest.mark.parametrize("name", [name for name in FAMILY if name != "style"])
def test_transformers_decoder_of_that_shape_has_the_same_size(name: str) -> None:
    cfg = FAMILY[name].lm
    melody = cfg.chroma is not None
    shape = {
        "num_hidden_layers": cfg.n_layers,
        "hidden_size": cfg.dim,
        "ffn_dim": cfg.ffn_dim,
        "num_attention_heads": cfg.n_heads,
        "num_codebooks": cfg.n_codebooks,
        "audio_channels": FAMILY[name].channels,
    }
    with torch.device("meta"):
        theirs = (
            MusicgenMelodyForCausalLM(MusicgenMelodyDecoderConfig(**shape))
            if melody
            else MusicgenForCausalLM(MusicgenDecoderConfig(**shape))
        )
        ours = LMModel(cfg)
    assert size(theirs) == size(ours) - size(ours.condition_provider)


def codec_size(rate_hz: int, ratios: list[int]) -> int:
    codec = EncodecConfig(
        sampling_rate=rate_hz,
        upsampling_ratios=ratios,
        num_filters=64,
        codebook_size=2048,
        target_bandwidths=[2.2],
        use_causal_conv=False,
        use_conv_shortcut=False,
    )
    return size(EncodecModel(codec))


def test_the_models_beside_the_language_model_have_their_sizes() -> None:
    with torch.device("meta"):
        text = T5EncoderModel(T5Config(d_model=768, d_ff=3072, num_layers=12, num_heads=12))
        assert size(text) == T5_PARAMETERS
        assert codec_size(32_000, [8, 5, 4, 4]) == CODEC_PARAMETERS
        assert size(HubertModel(HubertConfig())) == MERT_PARAMETERS


def test_the_models_beside_audiogens_language_model_have_their_sizes() -> None:
    with torch.device("meta"):
        text = T5EncoderModel(T5Config(d_model=1024, d_ff=4096, num_layers=24, num_heads=16))
        assert size(text) == T5_LARGE_PARAMETERS
        assert codec_size(16_000, [8, 5, 4, 2]) == CODEC_16KHZ_PARAMETERS


def test_audiogen_has_windows_of_10_s_with_a_stride_of_2_s() -> None:
    assert (AUDIOGEN.kind, AUDIOGEN.hub_id) == ("text", "facebook/audiogen-medium")
    assert (AUDIOGEN.sample_rate_hz, AUDIOGEN.window_s, AUDIOGEN.stride_s) == (16_000, 10.0, 2.0)
    assert AUDIOGEN.stride_in(2.0) is None  # it must be shorter than the window
    rows = 2 * 8 * row_bytes(AUDIOGEN.lm, "fp16", window_frames=500)
    beside = 4 * (T5_LARGE_PARAMETERS + CODEC_16KHZ_PARAMETERS)
    assert AUDIOGEN.memory_bytes(dtype="fp16", slots=8) == beside + 2 * 1_839_131_136 + rows


def test_names_are_the_hubs() -> None:
    assert SHORT_NAMES["small"] == "facebook/musicgen-small"
    assert SHORT_NAMES["stereo-melody-large"] == "facebook/musicgen-stereo-melody-large"
    assert [member.kind for member in FAMILY.values()].count("melody") == 4
    assert FAMILY["style"].kind == "style"
    assert FAMILY["stereo-small"].lm.delays == (0, 0, 1, 1, 2, 2, 3, 3)


@pytest.mark.parametrize("fuse", ["cross", "prepend"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_formula_of_a_row_is_what_the_engine_allocates(fuse: FuseMethod, dtype: str) -> None:
    lm = toy_lm(fuse)
    engine = Engine(lm, EngineOptions(slots=3, max_frames=100, max_text_tokens=20, dtype=dtype))
    caches = engine.state.caches + engine.state.cross_caches
    n_bytes = sum(c.keys.nbytes + c.values.nbytes for c in caches)
    row = row_bytes(lm.cfg, dtype, window_frames=100, max_text_tokens=20)
    assert n_bytes == 6 * row


def test_memory_counts_weights_and_rows() -> None:
    small = FAMILY["small"]
    one = small.memory_bytes(dtype="fp16", slots=1)
    rows = 2 * 2 * 24 * 1024 * (1536 + 64) * 2
    assert one == 4 * (109_628_544 + 56_884_674) + 2 * 420_371_456 + rows
    assert small.memory_bytes(dtype="fp16", slots=9) == one + 8 * rows
    whole = small.memory_bytes(dtype="fp32", slots=1)
    assert whole - one == 2 * 420_371_456 + rows


def test_the_table_prints_without_torch() -> None:
    code = (
        "import sys; from musicgen.registry import FAMILY; from musicgen import windows; "
        "[m.memory_bytes(dtype='fp16', slots=1) for m in FAMILY.values()]; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
