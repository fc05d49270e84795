"""Long, guided, styled and stereo clips as a script asks for them, on small random models."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from musicgen import MusicGen
from musicgen.checkpoints.describe import describe
from musicgen.checkpoints.load import Checkpoint, load_checkpoint
from musicgen.codec.codec import CompressionModel
from musicgen.config import LMConfig, SamplingParams
from musicgen.lm.model import LMModel
from tests.musicgen.toy import STYLE, randomise

TINY = describe("tiny")
WINDOW_S, STRIDE_S = 0.6, 0.36  # 30 and 18 frames
DURATION_S = 1.7  # 85 frames in 5 windows, the last from frame 72 on


class Loudness(nn.Module):
    """Stands for MERT: ten frames a second that tell how loud each part of a frame is."""

    def forward(self, wav: Tensor, sample_rate_hz: int) -> Tensor:
        size = sample_rate_hz // 10 // STYLE.feature_dim
        parts = wav.mean(dim=0).unfold(0, size, size).square().mean(dim=1).sqrt()
        n = len(parts) // STYLE.feature_dim
        return parts[: n * STYLE.feature_dim].view(n, STYLE.feature_dim)


def small(kind: str) -> MusicGen:
    """The bundled model, or one of another kind around its codec and T5, with short windows."""
    tiny = load_checkpoint(TINY)
    info = replace(TINY, max_duration_s=WINDOW_S)
    if kind == "melody":
        return MusicGen(info, tiny)
    channels = 2 if kind == "stereo" else 1
    n_codebooks = 4 * channels
    cfg = LMConfig(
        dim=32,
        n_heads=2,
        n_layers=2,
        ffn_dim=64,
        n_codebooks=n_codebooks,
        card=tiny.lm.cfg.card,
        delays=tuple(k // channels for k in range(n_codebooks)),
        text_dim=tiny.lm.cfg.text_dim,
        fuse="prepend" if kind == "style" else "cross",
        style=replace(STYLE, sample_rate_hz=TINY.sample_rate_hz) if kind == "style" else None,
    )
    info = replace(
        info,
        name=kind,
        kind="style" if kind == "style" else "text",
        chroma=None,
        channels=channels,
        n_codebooks=n_codebooks,
    )
    checkpoint = Checkpoint(
        lm=randomise(LMModel(cfg)),
        text=tiny.text,
        codec=CompressionModel(tiny.codec.model, channels),
        style_features=Loudness() if kind == "style" else None,
    )
    return MusicGen(info, checkpoint)


@pytest.fixture(scope="module", params=["text", "melody", "style", "stereo"])
def model(request: pytest.FixtureRequest) -> MusicGen:
    return small(request.param)


@pytest.fixture(scope="module")
def melody_model() -> MusicGen:
    return small("melody")


@pytest.fixture(scope="module")
def style_model() -> MusicGen:
    return small("style")


def parts(model: MusicGen) -> tuple[nn.Module | None, ...]:
    return model.lm, model.text_encoder, model.compression_model, model.style_features


def noise(*shape: int, seed: int = 1) -> Tensor:
    return 0.2 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def long(model: MusicGen, **changes: object) -> None:
    params = {"duration": DURATION_S, "extend_stride": STRIDE_S, "top_k": 20, **changes}
    model.set_generation_params(**params)


def piano(model: MusicGen) -> Tensor:
    """Codes of one clip, always by the same seed."""
    return model.generate(["a calm piano"], return_tokens=True, seeds=[0])[1]


def test_long_clips_are_exact_whatever_the_kind_and_the_mates(model: MusicGen) -> None:
    long(model)
    wav, tokens = model.generate(
        ["a calm piano", None, "techno"], return_tokens=True, seeds=[0, 1, 2]
    )
    assert wav.shape == (3, model.audio_channels, 85 * 320)
    assert tokens.shape == (3, 4 * model.audio_channels, 85)
    assert wav.isfinite().all()
    again = model.generate(["a", "b", "techno"], return_tokens=True, seeds=[3, 4, 2])[1]
    assert torch.equal(again[2], tokens[2])
    if model.audio_channels == 2:
        assert not torch.equal(wav[:, 0], wav[:, 1])


def test_the_first_window_of_a_long_clip_is_the_short_clip(model: MusicGen) -> None:
    """Noise is counted over the whole clip, so only what is heard later differs."""
    long(model)
    tokens = piano(model)
    long(model, duration=WINDOW_S)
    assert torch.equal(piano(model), tokens[..., :30])


def test_progress_counts_to_its_total_over_windows_and_waves(model: MusicGen) -> None:
    seen: list[tuple[int, int]] = []
    model.set_custom_progress_callback(lambda done, total: seen.append((done, total)))
    long(model)
    model.generate(["a"], progress=True)
    n_steps = 85 + 5 * model.lm.cfg.max_delay
    assert seen == [(step, n_steps) for step in range(1, n_steps + 1)]
    seen.clear()
    narrow = MusicGen(model.info, Checkpoint(*parts(model)), max_slots=2)
    narrow.set_custom_progress_callback(lambda done, total: seen.append((done, total)))
    long(narrow)
    narrow.generate(["a", "b", "c"], progress=True)
    assert seen == [(step, 2 * n_steps) for step in range(1, 2 * n_steps + 1)]


def test_rows_have_their_own_parameters(model: MusicGen) -> None:
    long(model, duration=0.3)
    params = [None, SamplingParams(use_sampling=False), SamplingParams(cfg_coef=1.0)]
    params.append(SamplingParams(cfg_coef_beta=2.0))
    prompts, seen = ["a", "b", "c", "d"], []
    model.set_custom_progress_callback(lambda done, total: seen.append((done, total)))
    mixed = model.generate(
        prompts, progress=True, return_tokens=True, seeds=[9] * 4, sampling=params
    )[1]
    assert seen[-1][0] == seen[-1][1] == len(seen)
    for row, one in enumerate(params):
        alone = model.generate([prompts[row]], return_tokens=True, seeds=[9], sampling=[one])[1]
        assert torch.equal(alone[0], mixed[row])


def test_two_step_guidance_has_the_numbers_of_joint_guidance(model: MusicGen) -> None:
    for beta in (4.0, None):
        guidance = {"duration": 0.4, "cfg_coef": 2.0, "cfg_coef_beta": beta}
        long(model, **guidance)
        joint = piano(model)
        long(model, **guidance, two_step_cfg=True)
        assert torch.equal(piano(model), joint)
    long(model, duration=0.4, two_step_cfg=True)
    assert not torch.equal(piano(model), joint)


def test_a_continuation_may_be_longer_than_a_window(model: MusicGen) -> None:
    long(model)
    opening = noise(2, model.audio_channels, 320 * 47)  # 0.94 s
    wav, tokens = model.generate_continuation(opening, 16_000, ["a", "b"], return_tokens=True)
    assert wav.shape[-1] == 85 * 320
    codes, _ = model.compression_model.encode(opening)
    assert torch.equal(tokens[..., :47], codes)
    assert not torch.equal(tokens[0, :, 47:], tokens[1, :, 47:])


def test_a_long_clip_hears_the_melody_roll(melody_model: MusicGen) -> None:
    assert melody_model.chroma is not None
    chroma, melody = melody_model.chroma.config, noise(1, 20_000)  # 1.25 s
    rows = melody_model.melody_chroma(melody, 16_000, n_frames=85, extend_stride_s=STRIDE_S)
    assert rows.shape == (5, chroma.chroma_length)
    n_window = int(WINDOW_S * 16_000)
    for index, row in enumerate(rows):
        heard = melody.repeat(1, 9)[:, index * 18 * 320 :][:, :n_window]
        n = len(melody_model.chroma(heard, 16_000))
        assert torch.equal(row[:n], melody_model.chroma(heard, 16_000))
        assert torch.equal(row[n : 2 * n], row[:n])  # a short window's frames repeat
    assert melody_model.melody_chroma(melody, 16_000, n_frames=30).ndim == 1


def test_a_melody_of_many_windows_is_followed(melody_model: MusicGen) -> None:
    long(melody_model, use_sampling=False)
    led = melody_model.generate_with_chroma(
        ["a", "a"], [noise(1, 9_000), None], 16_000, False, True
    )
    free = melody_model.generate(["a"], return_tokens=True)
    assert torch.equal(led[1][1], free[1][0])
    assert not torch.equal(led[1][0], led[1][1])


def test_a_style_is_heard_as_far_as_it_is_let_through(style_model: MusicGen) -> None:
    long(style_model, use_sampling=False, cfg_coef_beta=4.0)
    wavs = [noise(2, 40_000) * torch.linspace(0, 9, 40_000), None]

    def tokens() -> Tensor:
        made = style_model.generate_with_chroma(
            ["a", "a"], wavs, 12_000, return_tokens=True, seeds=[0, 1]
        )
        assert made[0].shape == (2, 1, 85 * 320)
        return made[1]

    style_model.set_style_conditioner_params(eval_q=2)
    first = tokens()
    assert torch.equal(tokens(), first)
    assert torch.equal(style_model.generate(["a"], return_tokens=True)[1][0], first[1])
    assert not torch.equal(first[0], first[1])
    style_model.set_style_conditioner_params(eval_q=1, excerpt_length=2.0, ds_factor=1)
    other = tokens()  # a longer prefix, other vectors
    assert torch.equal(other[1], first[1])
    assert not torch.equal(other[0], first[0])


def test_what_is_not_given_of_a_style_reader_stays_as_it_is() -> None:
    model = small("style")
    model.set_style_conditioner_params(1, 2.0, ds_factor=2, encodec_n_q=3)
    style = model.style
    assert style is not None
    assert (style.eval_q, style.excerpt_length_s) == (1, 2.0)
    assert (style.ds_factor, style.encodec_n_q) == (2, 3)
    model.set_style_conditioner_params()
    assert model.style == replace(style, eval_q=3, excerpt_length_s=3.0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"eval_q": 0}, r"eval_q=0 must lie in 1\.\.3"),
        ({"eval_q": 4}, r"eval_q=4 must lie in 1\.\.3"),
        ({"excerpt_length": 0.0}, "excerpt_length=0.0 s"),
        ({"excerpt_length": float("nan")}, "excerpt_length=nan s"),
        ({"ds_factor": 0}, "ds_factor=0"),
        ({"encodec_n_q": 0}, "encodec_n_q=0"),
    ],
)
def test_a_style_reader_has_its_limits(
    style_model: MusicGen, wrong: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        style_model.set_style_conditioner_params(**wrong)


@pytest.mark.parametrize(
    ("kind", "call", "message"),
    [
        ("text", lambda m: m.generate_with_chroma(["a"], noise(1, 9_000), 16_000), "no melody"),
        ("text", lambda m: m.melody_chroma(noise(1, 9_000), 16_000), "takes no melody"),
        ("style", lambda m: m.generate_with_chroma(["a"], noise(1, 900), 16_000), "excerpt of 3 s"),
    ],
)
def test_audio_that_a_model_can_not_take_is_refused(kind: str, call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(small(kind))
