"""A script written for AudioCraft runs: its model for tests, its attributes, its errors."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from musicgen import MusicGen
from musicgen.checkpoints.describe import TINY_FOLDER
from musicgen.config import ModelSource, SamplingParams
from musicgen.request_builder import GenerationRequest

RATE_HZ = 32_000


@pytest.fixture(scope="module")
def loaded() -> MusicGen:
    return MusicGen.get_pretrained("debug", "cpu")


@pytest.fixture
def model(loaded: MusicGen) -> MusicGen:
    loaded.max_duration = 30.0
    loaded.set_generation_params(duration=0.4)
    return loaded


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def test_the_debug_model_has_the_references_rates(model: MusicGen) -> None:
    fresh = MusicGen.get_pretrained("debug")
    assert (fresh.name, fresh.duration, fresh.max_duration) == ("debug", 15, 30)
    assert (model.sample_rate, model.frame_rate, model.audio_channels) == (RATE_HZ, 25, 1)
    assert (model.lm.n_q, model.lm.num_codebooks, model.lm.card) == (4, 4, 400)
    assert model.lm.special_token_id == 400
    assert model.lm.pattern_provider.delays == [0, 1, 2, 3]
    codec = model.compression_model
    assert (codec.num_codebooks, codec.total_codebooks, codec.cardinality) == (4, 4, 400)


def test_a_second_one_has_the_rates_of_the_references_audiogen() -> None:
    model = MusicGen.get_pretrained("debug-16khz")
    assert (model.sample_rate, model.frame_rate, model.max_duration) == (16_000, 25, 10)
    model.set_generation_params(duration=0.2)
    assert model.generate(["a"]).shape == (1, 1, 3_200)


def test_the_debug_model_is_the_same_in_every_process_and_draws_nothing() -> None:
    state = torch.get_rng_state()
    one, other = MusicGen.get_pretrained("debug"), MusicGen.get_pretrained("debug")
    assert torch.equal(torch.get_rng_state(), state)
    for part in ("lm", "text_encoder", "compression_model"):
        ours, theirs = getattr(one, part).state_dict(), getattr(other, part).state_dict()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert one.info == other.info
    assert len(one.info.weights_hash) == 32


@pytest.mark.parametrize("way", ["text", "unconditional", "continuation", "described"])
def test_every_way_gives_audio_of_the_duration(model: MusicGen, way: str) -> None:
    prompt = noise(2, 1, RATE_HZ // 5)
    made = {
        "text": lambda: model.generate(["one thing", "another"]),
        "unconditional": lambda: model.generate_unconditional(2),
        "continuation": lambda: model.generate_continuation(prompt, RATE_HZ),
        "described": lambda: model.generate_continuation(prompt, RATE_HZ, ["one", "other"]),
    }[way]()
    assert made.shape == (2, 1, 2 * RATE_HZ // 5)
    assert made.isfinite().all()
    assert not torch.equal(made[0], made[1])


def test_a_window_may_be_set_to_any_length(model: MusicGen) -> None:
    model.max_duration = 0.8
    assert model.max_duration == 0.8
    model.set_generation_params(duration=1.2, extend_stride=0.4)
    wav, tokens = model.generate(["a"], return_tokens=True, seeds=[5])
    assert wav.shape == (1, 1, 30 * 1280)
    model.set_generation_params(duration=0.8)
    assert torch.equal(model.generate(["a"], return_tokens=True, seeds=[5])[1], tokens[..., :20])
    with pytest.raises(AssertionError, match=r"extend_stride=0.8 s must be shorter"):
        model.set_generation_params(duration=1.2, extend_stride=0.8)
    with pytest.raises(ValueError, match="duration=0 s lies outside"):
        model.max_duration = 0


def test_a_window_may_be_given_where_a_model_is_loaded() -> None:
    model = MusicGen.get_pretrained("debug", max_duration=4.0)
    assert (model.max_duration, model.duration, model.cfg.dataset.segment_duration) == (4, 4, 4)
    assert model.extend_stride == pytest.approx(2.4)


def test_a_longer_window_than_the_model_was_trained_for_has_room() -> None:
    model = MusicGen.get_pretrained("tiny", "cpu", max_duration=10.5)
    assert model.make_engine(1).limits.max_frames == 525


def test_parameters_are_seen_and_may_be_changed_where_they_stand(model: MusicGen) -> None:
    model.set_generation_params(
        duration=0.4, top_k=5, temperature=0.5, cfg_coef_beta=2.0, two_step_cfg=True
    )
    assert model.generation_params == {
        "use_sampling": True,
        "temp": 0.5,
        "top_k": 5,
        "top_p": 0.0,
        "cfg_coef": 3.0,
        "two_step_cfg": True,
        "cfg_coef_beta": 2.0,
    }
    drawn = model.generate(["a"], True, True, [1])[1]
    model.generation_params |= {"use_sampling": False}
    likely = model.generate(["a"], True, True, [1])[1]
    assert not torch.equal(drawn, likely)
    assert torch.equal(model.generate(["a"], True, True, [2])[1], likely)
    model.generation_params["top_p"] = 7.0
    with pytest.raises(ValueError, match=r"top_p=7.0 must lie in 0..1"):
        model.generate(["a"])


def test_the_settings_of_the_training_have_the_references_keys(model: MusicGen) -> None:
    cfg = model.cfg
    assert (cfg.sample_rate, cfg.channels, cfg["sample_rate"]) == (RATE_HZ, 1, RATE_HZ)
    assert cfg.dataset.segment_duration == 30
    lm = cfg.transformer_lm
    assert (lm.n_q, lm.card, lm.dim, lm.num_heads, lm.num_layers) == (4, 400, 16, 4, 2)
    assert cfg.codebooks_pattern.delay.delays == [0, 1, 2, 3]
    assert (list(cfg.conditioners), cfg.fuser.cross) == (["description"], ["description"])
    tiny = MusicGen.get_pretrained("tiny", "cpu").cfg
    assert tiny.fuser.prepend == ["self_wav", "description"]
    assert tiny.conditioners.self_wav.model == "chroma_stem"
    with pytest.raises(AttributeError, match="the settings have no 'optim'; there are"):
        _ = cfg.optim


def test_a_path_is_a_folder() -> None:
    model = MusicGen.get_pretrained(Path(TINY_FOLDER))
    assert model.info.weights_hash == MusicGen.get_pretrained("tiny").info.weights_hash
    assert ModelSource.of(Path("small")).name == "./small"  # no short name
    assert ModelSource.of(Path("models/debug")).name == "./models/debug"
    assert ModelSource.of(Path("~/debug")).name == "~/debug"
    assert ModelSource.of(Path("/models/debug")).name == "/models/debug"


@pytest.mark.parametrize("name", ["debug", "tiny"])  # cross-attended, and as a prefix
def test_a_prompt_of_any_length_runs_as_a_whole(name: str) -> None:
    model = MusicGen.get_pretrained(name, "cpu", max_duration=2.0)
    greedy = SamplingParams(use_sampling=False)
    n_frames = 6
    model.set_generation_params(duration=n_frames / model.frame_rate, use_sampling=False)
    prompt = " ".join(["drum"] * 599 + ["flute"])
    before = model.generate(["flute"], return_tokens=True)[1]
    heard: list[int] = []
    model.text_encoder.model.register_forward_pre_hook(
        lambda _, inputs: heard.append(inputs[0].shape[1])
    )

    tokens = model.generate([prompt, "flute"], return_tokens=True)[1]

    assert heard[0] == len(model.text_encoder.tokenizer(prompt).input_ids) > 600
    with model.text_encoder.room_for([prompt]) as is_wider:
        request = model.make_request(GenerationRequest("row", prompt, n_frames, 0, greedy))
    assert is_wider
    expected = model.lm.generate(request.conditions, n_frames, sampling=greedy)
    assert torch.equal(tokens[0], expected)
    assert torch.equal(tokens[1], before[0])
    assert torch.equal(model.generate(["flute"], return_tokens=True)[1], before)
    with pytest.raises(ValueError, match=r"tokens, limit 512; shorten it"):  # as in a job
        model.make_request(GenerationRequest("row", prompt, n_frames, 0, greedy))


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda m: m.generate([]), AssertionError, "not empty"),
        (
            lambda m: m.generate_continuation(noise(2, 1, 800), RATE_HZ, ["a", "b", "c"]),
            AssertionError,
            "prompt has 2 entries for 3 descriptions",
        ),
        (
            lambda m: m.generate_continuation(noise(1, RATE_HZ), RATE_HZ),
            AssertionError,
            "raise the duration",
        ),
        (
            lambda m: m.generate_with_chroma(["a"], noise(1, 900), RATE_HZ),
            RuntimeError,
            "takes no melody",
        ),
        (lambda m: m.set_style_conditioner_params(), AssertionError, "reads no style"),
        (lambda m: m.generate_audio(torch.zeros(4, 9)), AssertionError, "codes are"),
        (lambda m: m.compression_model.set_num_codebooks(9), AssertionError, "num_codebooks=9"),
    ],
)
def test_errors_are_of_the_references_class_and_of_ours(
    model: MusicGen, call: object, kind: type[Exception], message: str
) -> None:
    for caught in (kind, ValueError):
        with pytest.raises(caught, match=message):
            call(model)


@pytest.mark.parametrize(
    ("melodies", "message"),
    [([noise(9)], "is audio .channels, samples."), ([noise(1, 9)] * 2, "has 2 entries")],
)
def test_melodies_that_do_not_fit_are_assertions_too(melodies: list, message: str) -> None:
    tiny = MusicGen.get_pretrained("tiny", "cpu")
    with pytest.raises(AssertionError, match=message):
        tiny.generate_with_chroma(["a"], melodies, RATE_HZ)
