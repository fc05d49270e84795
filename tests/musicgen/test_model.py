"""MusicGen as a script uses it, on the bundled model."""

import math
from collections.abc import Sequence
from itertools import combinations

import pytest
import torch
from torch import Tensor
from transformers import MusicgenMelodyForConditionalGeneration

from musicgen import MusicGen
from musicgen.checkpoints.describe import TINY_FOLDER
from musicgen.config import SamplingParams
from musicgen.request_builder import GenerationRequest

PROMPTS = ["a calm piano", "loud fast techno with deep bass and drums", None]


@pytest.fixture(scope="module")
def loaded() -> MusicGen:
    return MusicGen.get_pretrained("tiny", device="cpu")


@pytest.fixture
def model(loaded: MusicGen) -> MusicGen:
    loaded.set_generation_params(duration=0.5)
    loaded.set_custom_progress_callback(None)
    return loaded


def noise(*shape: int) -> Tensor:
    return 0.2 * torch.randn(shape, generator=torch.Generator().manual_seed(1))


def test_it_speaks_of_itself_under_the_reference_names(model: MusicGen) -> None:
    assert (model.sample_rate, model.frame_rate, model.audio_channels) == (16_000, 50, 1)
    assert (model.name, model.max_duration) == ("tiny", 10.0)
    assert MusicGen.get_pretrained("tiny").duration == 10.0
    codec = model.compression_model
    assert (codec.num_codebooks, codec.cardinality) == (model.lm.cfg.n_codebooks, model.lm.cfg.card)


def test_device_and_precision_are_chosen_where_a_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usual = MusicGen.get_pretrained("tiny").device.type
    assert usual == ("cuda" if torch.cuda.is_available() else "cpu")
    half = MusicGen.get_pretrained("tiny", torch.device("cpu"), "bf16")
    assert {p.dtype for p in half.text_encoder.parameters()} == {torch.float32}
    half.set_generation_params(duration=0.1)
    assert half.generate(["a"]).isfinite().all()
    assert half.make_engine(1).weights.cache_dtype == torch.bfloat16


def test_a_job_holds_the_weights_once_and_its_engines_share_them() -> None:
    kept, lean = (MusicGen.get_pretrained("tiny", keep_lm=keep) for keep in (True, False))
    first, second = lean.make_engine(1), lean.make_engine(2)
    assert first.weights is second.weights
    layers = [*lean.lm.transformer.parameters(), *lean.lm.linears.parameters()]
    assert {p.device.type for p in layers} == {"meta"}
    for model in (kept, lean):
        model.set_generation_params(duration=0.2)
    assert torch.equal(lean.generate(["a flute"], seeds=[0]), kept.generate(["a flute"], seeds=[0]))
    assert {p.device.type for p in kept.lm.parameters()} == {"cpu"}


def test_a_slot_weighs_what_its_caches_hold(model: MusicGen) -> None:
    state = model.make_engine(3).state
    n_bytes = sum(c.keys.nbytes + c.values.nbytes for c in state.caches + state.cross_caches)
    assert n_bytes == 3 * model.slot_bytes
    assert model.slots_that_fit(0) is None  # there is no GPU to fill


def test_the_defaults_are_the_references(model: MusicGen) -> None:
    model.set_generation_params()
    assert (model.duration, model.extend_stride) == (30.0, 6.0)  # 18 s where a window has 30 s
    assert model.sampling == SamplingParams(True, 1.0, 250, 0.0, 3.0, None)


@pytest.mark.parametrize(
    "changed",
    [
        {"use_sampling": False},
        {"temperature": 0.4},
        {"top_k": 3},
        {"top_p": 0.4},
        {"cfg_coef": 6.0},
        {"cfg_coef_beta": 4.0},
    ],
)
def test_what_is_set_is_what_clips_are_made_with(model: MusicGen, changed: dict) -> None:
    usual = model.generate(["a"], return_tokens=True, seeds=[0])[1]
    params = [SamplingParams(**changed)]
    own = model.generate(["a"], return_tokens=True, seeds=[0], sampling=params)[1]
    model.set_generation_params(duration=0.5, **changed)
    assert torch.equal(model.generate(["a"], return_tokens=True, seeds=[0])[1], own)
    assert not torch.equal(own, usual)


def test_audio_of_the_tokens_is_the_audio(model: MusicGen) -> None:
    model.set_generation_params(duration=0.4)
    wav, tokens = model.generate(PROMPTS, return_tokens=True)
    assert torch.equal(model.generate_audio(tokens), wav)
    with pytest.raises(ValueError, match=r"\[B, K, T\]"):
        model.generate_audio(tokens[0])


def test_audio_is_audible_finite_and_exactly_as_long_as_asked(model: MusicGen) -> None:
    model.set_generation_params(duration=1.23)
    wav, tokens = model.generate(PROMPTS, return_tokens=True)
    assert tokens.shape == (3, 4, 62)  # 61.5 frames, rounded half up
    assert wav.shape == (3, 1, 62 * 320)
    assert wav.dtype == torch.float32
    assert wav.isfinite().all()
    for clip in wav:
        assert 0.1 < clip.square().mean().sqrt() < 0.3  # RMS; its music was made at 0.13 … 0.26
    assert wav.abs().max() < 1.5


def test_the_same_seed_gives_the_same_bits_and_another_seed_other_audio(model: MusicGen) -> None:
    first = model.generate(PROMPTS, seeds=[5, 6, 7])
    torch.rand(3)  # where seeds are given, the global generator plays no part
    again = model.generate(PROMPTS, seeds=[5, 6, 7])
    other = model.generate(PROMPTS, seeds=[5, 8, 7])
    assert torch.equal(first, again)
    assert torch.equal(first[[0, 2]], other[[0, 2]])
    assert (first[1] - other[1]).abs().mean() > 0.01


def test_without_seeds_torchs_generator_decides_and_each_call_gives_other_clips(
    model: MusicGen,
) -> None:
    same = ["a calm piano"] * 2
    torch.manual_seed(3)
    first, second = model.generate(same), model.generate(same)
    torch.manual_seed(3)
    assert torch.equal(model.generate(same), first)
    assert torch.equal(model.generate(same), second)
    clips = [*first, *second]
    assert not any(torch.equal(one, other) for one, other in combinations(clips, 2))


def test_with_seeds_the_global_generator_is_left_alone(model: MusicGen) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    model.generate(["a"], seeds=[1])
    assert torch.equal(torch.get_rng_state(), before)


def test_prompts_and_melodies_make_a_difference_without_any_draw(model: MusicGen) -> None:
    model.set_generation_params(use_sampling=False, duration=0.5)
    _, tokens = model.generate(PROMPTS, return_tokens=True)
    _, led = model.generate_with_chroma(PROMPTS, noise(3, 1, 20_000), 16_000, return_tokens=True)
    everything = [*tokens, *led]
    for i, one in enumerate(everything):
        for other in everything[i + 1 :]:
            assert not torch.equal(one, other)


def test_a_clip_does_not_depend_on_its_mates(model: MusicGen) -> None:
    """At the same number of rows: tokens are the same bits alone, first, or last in company."""
    chroma = model.melody_chroma(noise(2, 30_000), 44_100)
    clips = [
        {"prompt": PROMPTS[0], "n_frames": 20, "seed": 1},
        {"prompt": PROMPTS[1], "n_frames": 33, "seed": 2, "melody_chroma": chroma},
        {"prompt": None, "n_frames": 12, "seed": 3, "continuation": noise(1, 2_000)},
        {"prompt": None, "n_frames": 27, "seed": 4},
    ]

    def run(order: Sequence[int]) -> dict[str, Tensor | None]:
        engine = model.make_engine(slots=2)
        for i in order:
            clip = GenerationRequest(str(i), sampling=SamplingParams(), **clips[i])
            engine.submit(model.make_request(clip))
        codes: dict[str, Tensor | None] = {}
        while len(codes) < len(order):
            codes |= {clip.key: clip.codes for clip in engine.step()}
        return codes

    together, reverse = run([0, 1, 2, 3]), run([3, 2, 1, 0])
    for i in range(len(clips)):
        alone = run([i])[str(i)]
        assert alone is not None
        assert torch.equal(alone, together[str(i)])
        assert torch.equal(alone, reverse[str(i)])


def test_more_clips_than_slots_wait_their_turn(model: MusicGen) -> None:
    prompts = ["a", "b", "c", "d", "e"]
    narrow = MusicGen.get_pretrained("tiny", device="cpu", max_slots=2)
    narrow.set_generation_params(duration=0.1)
    assert narrow.generate(prompts).shape == (5, 1, 1600)


@pytest.mark.parametrize("cfg_coef_beta", [None, 2.0])
@pytest.mark.parametrize("cfg_coef", [1.0, 3.0])
def test_progress_counts_up_to_its_total(
    model: MusicGen, cfg_coef: float, cfg_coef_beta: float | None
) -> None:
    seen: list[tuple[int, int]] = []
    model.set_generation_params(duration=0.2, cfg_coef=cfg_coef, cfg_coef_beta=cfg_coef_beta)
    model.set_custom_progress_callback(lambda done, total: seen.append((done, total)))
    model.generate(["a", "b", "c"], progress=True)
    n_steps = 10 + 3
    assert seen == [(step, n_steps) for step in range(1, n_steps + 1)]
    seen.clear()
    model.generate(["a"])
    assert seen == []


def test_a_continuation_begins_with_its_prompt(model: MusicGen) -> None:
    opening = noise(2, 2, 8_820)  # 0.2 s of stereo at 44.1 kHz
    wav, tokens = model.generate_continuation(opening, 44_100, ["x", None], return_tokens=True)
    assert wav.shape == (2, 1, 8_000)
    codes, _ = model.compression_model.encode(
        torch.stack([model.own_audio(clip, 44_100) for clip in opening])
    )
    assert torch.equal(tokens[..., :10], codes)
    mono = noise(2, 1, 3_200)
    wav, tokens = model.generate_continuation(mono, 16_000, return_tokens=True)
    codes, _ = model.compression_model.encode(mono)
    assert torch.equal(tokens[..., :10], codes)


def test_unconditional_clips_differ(model: MusicGen) -> None:
    wav = model.generate_unconditional(2)
    assert wav.shape == (2, 1, 8_000)
    assert not torch.equal(wav[0], wav[1])


@pytest.mark.parametrize("way", ["unconditional", "with_chroma", "continuation"])
def test_every_way_to_generate_takes_the_same_options(model: MusicGen, way: str) -> None:
    call, inputs = {
        "unconditional": (model.generate_unconditional, (2,)),
        "with_chroma": (model.generate_with_chroma, (["a", "a"], [noise(1, 900)] * 2, 16_000)),
        "continuation": (model.generate_continuation, (noise(1, 1_600).expand(2, 1, -1), 16_000)),
    }[way]
    seen: list[tuple[int, int]] = []
    model.set_custom_progress_callback(lambda done, total: seen.append((done, total)))
    params = [SamplingParams(top_k=9)] * 2
    wav, tokens = call(*inputs, progress=True, return_tokens=True, seeds=[4, 4], sampling=params)
    assert seen[-1][0] == seen[-1][1] == len(seen)
    assert torch.equal(torch.stack([model.decode(clip) for clip in tokens]), wav)
    assert torch.equal(tokens[0], tokens[1])
    assert torch.equal(call(*inputs, seeds=[4, 5], sampling=params)[0], wav[0])
    for other in ({"seeds": [6, 4]}, {"seeds": [4, 4], "sampling": None}):
        assert not torch.equal(call(*inputs, **({"sampling": params} | other))[0], wav[0])


def test_melodies_come_as_a_tensor_or_as_a_list_with_gaps(model: MusicGen) -> None:
    melody = noise(1, 20_000)
    listed = model.generate_with_chroma(["a", "b"], [melody, None], 16_000, seeds=[0, 1])
    alone = model.generate_with_chroma(["a"], melody, 16_000, seeds=[0])
    assert torch.equal(model.generate(["z", "b"], seeds=[2, 1])[1], listed[1])
    torch.testing.assert_close(alone[0], listed[0])


def test_a_melody_is_read_at_its_own_rate(model: MusicGen) -> None:
    model.set_generation_params(use_sampling=False, duration=0.5)

    def tokens(rate_hz: int, called_hz: int) -> Tensor:
        tone = torch.sin(440 * math.tau * torch.arange(2 * rate_hz) / rate_hz)[None]
        return model.generate_with_chroma(["a"], tone, called_hz, return_tokens=True)[1]

    assert torch.equal(tokens(48_000, 48_000), tokens(16_000, 16_000))
    assert not torch.equal(tokens(16_000, 12_000), tokens(16_000, 16_000))  # E in place of A


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.generate([]), "descriptions is a list .* not empty"),
        (lambda m: m.generate("a calm piano"), "descriptions is a list"),
        (lambda m: m.generate(["a", 7]), "descriptions are texts or None, got 7"),
        (lambda m: m.generate(["a"], seeds=[1, 2]), "seeds has 2 entries for 1 descriptions"),
        (lambda m: m.generate(["a"], seeds=[-1]), r"seed=-1 lies outside 0 … 2\^63"),
        (lambda m: m.generate(["a"], seeds=[2**63]), "lies outside 0"),
        (lambda m: m.generate(["a"], sampling=[]), "sampling has 0 entries for 1 descriptions"),
        (lambda m: m.generate_unconditional(0), "num_samples=0 must be at least 1"),
        (
            lambda m: m.set_generation_params(duration=3600.1),
            "duration=3600.1 s lies outside .* 3600 s",
        ),
        (lambda m: m.set_generation_params(duration=9, extend_stride=0), "extend_stride=0 must"),
        (
            lambda m: m.set_generation_params(duration=11, extend_stride=10),
            "extend_stride=10 s must be shorter than the model's window of 10 s; 6 s suits it",
        ),
        (lambda m: m.set_style_conditioner_params(), "'tiny' reads no style; use a style model"),
        (lambda m: m.set_generation_params(duration=0), "duration=0 s"),
        (lambda m: m.set_generation_params(duration=float("nan")), "duration=nan s"),
        (lambda m: m.set_generation_params(duration=1, top_p=1.5), "top_p=1.5"),
        (lambda m: m.generate_with_chroma(["a"], noise(8), 16_000), "melody_wavs is .batch"),
        (lambda m: m.generate_with_chroma(["a"], [None] * 2, 16_000), "melody_wavs has 2 entries"),
        (lambda m: m.generate_with_chroma(["a"], [noise(1, 0)], 16_000), "melody_wavs.0. is"),
        (lambda m: m.generate_continuation(noise(8), 16_000), "prompt is .batch"),
        (
            lambda m: m.generate_continuation(noise(2, 1, 800), 16_000, ["a"]),
            "prompt has 2 entries for 1 descriptions",
        ),
        (lambda m: m.generate_continuation(noise(1, 1, 8_000), 16_000), "raise the duration"),
        (lambda m: m.generate_continuation(noise(1, 1, 0), 16_000), "a continuation is finite"),
    ],
)
def test_bad_input_is_a_value_error_that_says_what_to_do(
    model: MusicGen, call: object, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        call(model)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_frames": 0}, "at least one frame, not 0"),
        ({"n_frames": 501, "extend_stride_s": 40.0}, "extend_stride=40 s must be shorter"),
        ({"n_frames": 501, "melody_chroma": [0, 4]}, "made in 2 windows, its melody has 1 rows"),
        ({"melody_chroma": [0, 12]}, "pitch classes 0 … 11"),
        ({"melody_chroma": []}, "pitch classes 0 … 11, not empty"),
        ({"continuation": torch.full((1, 100), float("nan"))}, "finite audio"),
        ({"continuation": torch.zeros(1, 640), "n_frames": 2}, "is 0.04 s long and the clip"),
        ({"prompt": "drum" + " drum" * 599}, "prompt has 601 tokens, limit 512"),
    ],
)
def test_a_row_that_can_not_be_made_is_a_value_error(
    model: MusicGen, changes: dict, message: str
) -> None:
    row = {"prompt": "a", "n_frames": 50, "seed": 0, "sampling": SamplingParams(), **changes}
    with pytest.raises(ValueError, match=message):
        model.make_request(GenerationRequest("row", **row))


def test_after_a_failed_call_the_model_goes_on(model: MusicGen) -> None:
    before = model.generate(["a"], seeds=[0])

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    model.set_custom_progress_callback(stop)
    with pytest.raises(KeyboardInterrupt):
        model.generate(["b"], progress=True)
    assert torch.equal(model.generate(["a"], seeds=[0]), before)


def test_the_bundled_model_loads_and_runs_in_transformers() -> None:
    theirs, info = MusicgenMelodyForConditionalGeneration.from_pretrained(
        TINY_FOLDER, dtype=torch.float32, output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    wav = theirs.generate(input_ids=torch.tensor([[5, 1]]), do_sample=False, max_length=14)
    assert wav.shape == (1, 1, 10 * 320)
    assert wav.isfinite().all()
