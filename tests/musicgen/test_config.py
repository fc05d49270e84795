"""Lengths are counted in integers, and wrong parameters are refused by name."""

import subprocess
import sys
from dataclasses import replace

import pytest

from musicgen.config import ChromaConfig, LMConfig, SamplingParams, StyleConfig, n_frames

CFG = LMConfig(
    dim=64,
    n_heads=4,
    n_layers=1,
    ffn_dim=64,
    n_codebooks=4,
    card=16,
    delays=(0, 1, 2, 3),
    text_dim=8,
    fuse="cross",
)


@pytest.mark.parametrize(
    ("duration_us", "frames"),
    [(580_000, 29), (30_060_000, 1503), (10_000, 1), (29_999, 1), (30_000, 2), (1, 1)],
)
def test_frames_are_rounded_half_up_and_never_zero(duration_us: int, frames: int) -> None:
    assert n_frames(duration_us, 50) == frames


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"top_k": -1},
        {"top_p": 1.5},
        {"cfg_coef": float("inf")},
        {"cfg_coef_beta": float("nan")},
    ],
)
def test_a_wrong_parameter_is_named(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SamplingParams(**wrong)


def test_guidance_follows_from_the_coefficients() -> None:
    assert SamplingParams(cfg_coef=1.0).guidance == "none"
    assert SamplingParams(cfg_coef=3.0).guidance == "single"
    assert SamplingParams(cfg_coef=1.0, cfg_coef_beta=5.0).guidance == "double"


@pytest.mark.parametrize(
    "wrong", [{"dim": 66}, {"delays": (0, 1)}, {"delays": (1, 1, 2, 3)}, {"fuse": "sum"}]
)
def test_a_wrong_shape_is_named(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        replace(CFG, **wrong)


CHROMA = ChromaConfig(16_384, 4_096, 12, 235, 32_000)


def test_a_prefix_is_as_long_as_what_is_heard_makes_it() -> None:
    assert CFG.max_audio_frames == 0
    assert replace(CFG, fuse="prepend", chroma=CHROMA).max_audio_frames == 235
    assert replace(CFG, fuse="prepend", style=StyleConfig()).max_audio_frames == 15
    assert StyleConfig(excerpt_length_s=4.5, ds_factor=1).max_frames == 338
    assert StyleConfig(excerpt_length_s=0.001).max_frames == 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"chroma": CHROMA}, "needs fuse='prepend'"),
        ({"style": StyleConfig()}, "needs fuse='prepend'"),
        ({"chroma": CHROMA, "style": StyleConfig(), "fuse": "prepend"}, "not both"),
    ],
)
def test_a_model_listens_in_one_way(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(CFG, **wrong)


def test_configuration_loads_without_torch() -> None:
    script = "import sys, musicgen, musicgen.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
