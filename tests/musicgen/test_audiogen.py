"""AudioGen: its layout, its defaults, and its sounds; every clip has the bits that it has alone."""

from collections.abc import Sequence
from inspect import signature
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import MusicgenForConditionalGeneration

from musicgen import AudioGen
from musicgen.checkpoints.convert import convert
from musicgen.checkpoints.describe import describe
from musicgen.checkpoints.load import CheckpointError
from musicgen.config import SamplingParams
from musicgen.request_builder import GenerationRequest
from tests.musicgen import audiocraft_files as audiocraft

pytestmark = pytest.mark.slow  # seconds, all together

RATE_HZ, HOP, FRAME_RATE_HZ = 16_000, 320, 50
NOISE = 0.1 * torch.randn(1, 24_000, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return audiocraft.save(tmp_path_factory.mktemp("audiogen") / "model", "audiogen")


@pytest.fixture(scope="module")
def model(folder: Path) -> AudioGen:
    return AudioGen.get_pretrained(str(folder), "cpu")


def test_a_checkpoint_is_described_by_its_files(folder: Path) -> None:
    info = describe(str(folder))
    assert (info.layout, info.kind, info.channels, info.n_codebooks) == ("audiocraft", "text", 1, 4)
    assert (info.sample_rate_hz, info.frame_rate_hz, info.hop_samples) == (RATE_HZ, 50, HOP)
    assert (info.max_duration_s, info.default_stride_s) == (10.0, 2.0)


def test_names_and_defaults_are_the_references(folder: Path) -> None:
    named = list(signature(AudioGen.set_generation_params).parameters.values())[1:]
    assert {parameter.name: parameter.default for parameter in named} == {
        "use_sampling": True, "top_k": 250, "top_p": 0.0, "temperature": 1.0, "duration": 10.0,
        "cfg_coef": 3.0, "two_step_cfg": False, "extend_stride": 2,
    }  # fmt: skip
    name = signature(AudioGen.get_pretrained).parameters["name"]
    assert name.default == "facebook/audiogen-medium"

    model = AudioGen.get_pretrained(str(folder), "cpu")
    assert (model.sample_rate, model.frame_rate, model.audio_channels) == (RATE_HZ, 50, 1)
    assert (model.max_duration, model.duration, model.extend_stride) == (10.0, 5.0, 2.0)
    model.set_generation_params(True, 50, 0.0, 0.9, 7, 2.0, False, 4)
    assert model.sampling == SamplingParams(top_k=50, temperature=0.9, cfg_coef=2.0)
    assert (model.duration, model.extend_stride) == (7, 4)
    model.set_generation_params()
    assert (model.duration, model.extend_stride) == (10.0, 2.0)
    with pytest.raises(ValueError, match="must be shorter than the model's window of 10 s"):
        model.set_generation_params(duration=12, extend_stride=10)


def test_sounds_from_text_from_nothing_and_from_a_beginning(model: AudioGen) -> None:
    model.set_generation_params(duration=0.5)
    wav, tokens = model.generate(["a dog barks", None], return_tokens=True)
    assert wav.shape == (2, 1, RATE_HZ // 2)
    assert tokens.shape == (2, 4, 25)
    assert wav.isfinite().all()
    assert not torch.equal(wav[0], wav[1])
    assert model.generate_unconditional(1).shape == (1, 1, RATE_HZ // 2)
    again, codes = model.generate_continuation(NOISE[:, :3200], RATE_HZ, ["x"], return_tokens=True)
    assert again.shape == (1, 1, RATE_HZ // 2)
    heard, _ = model.compression_model.encode(NOISE[None, :, :3200])
    assert torch.equal(codes[..., :10], heard)


def test_melodies_are_refused_and_models_that_hear_them(model: AudioGen, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="takes no melody"):
        model.generate_with_chroma(["x"], NOISE[None], RATE_HZ)
    with pytest.raises(CheckpointError, match="a melody model is no AudioGen"):
        AudioGen.get_pretrained(str(audiocraft.save(tmp_path / "model", "melody")), "cpu")


def test_the_debug_model_has_audiogens_rate_and_window() -> None:
    model = AudioGen.get_pretrained("debug", "cpu")
    assert (model.sample_rate, model.frame_rate, model.max_duration) == (16_000, 25, 10.0)
    model.set_generation_params(duration=2.0)
    assert model.generate(["rain", "a dog"]).shape == (2, 1, 32_000)
    shorter = AudioGen.get_pretrained("debug", "cpu", max_duration=4.0)
    assert shorter.max_duration == 4.0


def test_a_clip_of_25_s_depends_on_nothing_beside_it(model: AudioGen) -> None:
    """Nine windows of 10 s that begin 2 s apart; the same bits alone and in company."""
    clips = [
        {"prompt": "rain on a roof", "n_frames": 25 * FRAME_RATE_HZ, "seed": 1},
        {"prompt": None, "n_frames": 40, "seed": 2, "continuation": NOISE[:, :6_400]},
        {"prompt": "a dog barks twice", "n_frames": 33, "seed": 3},
    ]

    def run(order: Sequence[int]) -> dict[int, Tensor]:
        engine = model.make_engine(slots=2)
        for i in order:
            clip = GenerationRequest(str(i), sampling=SamplingParams(), **clips[i])
            request = model.make_request(clip)
            if i == 0:
                assert [w.first_frame for w in request.windows] == list(range(0, 801, 100))
                assert {w.n_frames for w in request.windows[:-1]} == {500}
            engine.submit(request)
        codes: dict[int, Tensor] = {}
        while len(codes) < len(order):
            codes |= {int(clip.key): clip.codes for clip in engine.step() if clip.codes is not None}
        return codes

    together = run([2, 0, 1])
    for i in range(len(clips)):
        assert torch.equal(run([i])[i], together[i])
    assert model.decode(together[0]).shape == (1, 25 * RATE_HZ)


def test_a_converted_folder_keeps_rate_window_and_stride(
    model: AudioGen, folder: Path, tmp_path: Path
) -> None:
    info = convert(str(folder), tmp_path / "converted")
    assert (info.layout, info.sample_rate_hz, info.hop_samples) == ("transformers", RATE_HZ, HOP)
    assert (info.max_duration_s, info.default_stride_s) == (10.0, 2.0)
    again = AudioGen.get_pretrained(info.path, "cpu")
    for one in (model, again):
        one.set_generation_params(duration=0.3)
    assert torch.equal(again.generate(["rain"], seeds=[5]), model.generate(["rain"], seeds=[5]))
    theirs = MusicgenForConditionalGeneration.from_pretrained(info.path)
    assert theirs.config.audio_encoder.sampling_rate == RATE_HZ
