"""A style model from its checkpoint to its requests: excerpts, parameters, what is refused."""

import dataclasses
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor

from musicgen.checkpoints.convert import convert
from musicgen.checkpoints.load import CheckpointError, load
from musicgen.conditioning.style import excerpt_start
from musicgen.config import ModelSource, SamplingParams
from musicgen.engine.engine import Request
from musicgen.request_builder import GenerationRequest, RequestBuilder
from tests.musicgen import audiocraft_files as audiocraft

GREEDY = SamplingParams(use_sampling=False)
WAV = 0.3 * torch.randn(1, 40_000, generator=torch.Generator().manual_seed(1))  # 1.25 s


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A style model (excerpts of 0.5 s, windows of 2 s) and a MERT for it."""
    root = tmp_path_factory.mktemp("style")
    model = audiocraft.save(root / "model", "style")
    return str(model), str(audiocraft.save_mert(root / "mert"))


@pytest.fixture
def maker(folders: tuple[str, str]) -> RequestBuilder:
    info, checkpoint = load(ModelSource(folders[0], style_encoder=folders[1]))
    return RequestBuilder(
        info, checkpoint.lm, checkpoint.text, checkpoint.codec, checkpoint.style_features
    )


def make(maker: RequestBuilder, **changes: object) -> Request:
    row = {"prompt": "disco", "n_frames": 20, "seed": 7, "sampling": GREEDY} | changes
    return maker.make(GenerationRequest("a", **row))  # type: ignore[arg-type]


def by_hand(maker: RequestBuilder, seed: int, window: int = 0) -> Tensor:
    """The prefix of the excerpt that the seed chooses."""
    start = excerpt_start(seed, window, WAV.shape[-1], 16_000)
    features = maker.style_features(WAV[:, start : start + 16_000], 32_000)
    return maker.conditioners["self_wav"](features, maker.style)


def test_the_prefix_is_that_of_the_excerpt_and_its_null_is_zero(maker: RequestBuilder) -> None:
    conditions = make(maker, style=WAV).conditions
    assert torch.equal(conditions.audio, by_hand(maker, 7))
    assert conditions.audio.shape == (3, audiocraft.DIM)  # 0.5 s · 75 Hz, every 15th
    assert torch.equal(conditions.null_audio, torch.zeros(3, audiocraft.DIM))


def test_each_seed_hears_its_own_excerpt_and_no_batch_is_shared(maker: RequestBuilder) -> None:
    first, second = (make(maker, style=WAV, seed=seed).conditions.audio for seed in (1, 2))
    assert not torch.equal(first, second)
    assert torch.equal(first, make(maker, style=WAV, seed=1).conditions.audio)
    exact = WAV[:, :16_000]  # leaves no choice
    a, b = (make(maker, style=exact, seed=seed).conditions.audio for seed in (1, 2))
    assert torch.equal(a, b)


def test_without_a_style_one_zero_frame_stands_there(maker: RequestBuilder) -> None:
    conditions = make(maker).conditions
    assert conditions.audio is None
    assert torch.equal(conditions.null_audio, torch.zeros(1, audiocraft.DIM))


def test_a_long_clip_hears_another_excerpt_in_each_window(maker: RequestBuilder) -> None:
    request = make(maker, style=WAV, n_frames=200, extend_stride_s=1.0)
    assert [window.first_frame for window in request.windows] == [0, 50, 100]
    assert request.later_conditions is not None
    for window in (1, 2):
        later = request.later_conditions(window)
        assert torch.equal(later.audio, by_hand(maker, 7, window))
        assert torch.equal(later.text, request.conditions.text)
    assert make(maker, n_frames=200, extend_stride_s=1.0).later_conditions is None


def test_the_parameters_of_the_reader_are_read_at_every_request(maker: RequestBuilder) -> None:
    expected = make(maker, style=WAV).conditions.audio
    maker.style = dataclasses.replace(maker.style, eval_q=6, ds_factor=5, excerpt_length_s=1.0)
    finer = make(maker, style=WAV).conditions
    assert finer.audio.shape == finer.null_audio.shape == (15, audiocraft.DIM)
    assert not torch.equal(finer.audio[::3][:3], expected)


@pytest.mark.parametrize(
    ("wav", "message"),
    [
        (
            WAV[:, :15_999],
            r"0\.499969 s long and an excerpt of 0\.5 s is read from it; give longer",
        ),
        (torch.full((1, 20_000), torch.nan), "a style is finite audio"),
        (WAV[0], "a style is finite audio"),
    ],
)
def test_audio_that_can_not_be_read_is_a_row_error(
    maker: RequestBuilder, wav: Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make(maker, style=wav)


def test_a_melody_is_no_style(maker: RequestBuilder) -> None:
    with pytest.raises(ValueError, match="takes no melody"):
        make(maker, melody_chroma=[1, 2])
    info, checkpoint = load("tiny")
    melody = RequestBuilder(info, checkpoint.lm, checkpoint.text, checkpoint.codec)
    with pytest.raises(ValueError, match="model 'tiny' reads no style"):
        make(melody, style=WAV)


def test_without_mert_only_rows_with_a_style_fail(
    folders: tuple[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    info, checkpoint = load(folders[0])
    assert (info.submodels.style_encoder, checkpoint.style_features) == (None, None)
    maker = RequestBuilder(info, checkpoint.lm, checkpoint.text, checkpoint.codec)
    assert make(maker).conditions.text.shape[0] > 1
    with pytest.raises(ValueError, match=r"came without m-a-p/MERT-v1-95M.*style_encoder="):
        make(maker, style=WAV)


def test_encodec_may_be_what_hears_the_style(tmp_path: Path) -> None:
    """A reader of the codes of the model's own codec; it needs no MERT, also when converted."""
    folder = audiocraft.save(tmp_path / "model", "style")
    package = torch.load(folder / "state_dict.bin", weights_only=True)
    cfg, state = yaml.safe_load(package["xp.cfg"]), package["best_state"]
    cfg["conditioners"]["self_wav"]["style"]["model_name"] = "encodec"
    name = "condition_provider.conditioners.self_wav.embed"
    del state[f"{name}.weight"], state[f"{name}.bias"]
    state |= {f"{name}.{k}.weight": torch.randn(audiocraft.CARD, 256) for k in range(4)}
    torch.save({"best_state": state, "xp.cfg": yaml.safe_dump(cfg)}, folder / "state_dict.bin")
    prefixes = []
    for name in (str(folder), convert(str(folder), tmp_path / "converted").path):
        info, checkpoint = load(name)
        assert (info.style.features, info.style.feature_rate_hz) == ("encodec", 50)
        maker = RequestBuilder(
            info, checkpoint.lm, checkpoint.text, checkpoint.codec, checkpoint.style_features
        )
        prefixes.append(make(maker, style=WAV).conditions.audio)
        maker.style = dataclasses.replace(maker.style, encodec_n_q=2)
        assert not torch.equal(make(maker, style=WAV).conditions.audio, prefixes[-1])
    assert prefixes[0].shape == (2, audiocraft.DIM)  # 0.5 s · 50 Hz, every 15th
    assert torch.equal(*prefixes)


def test_code_in_merts_folder_is_never_run(folders: tuple[str, str], tmp_path: Path) -> None:
    """Its configuration names a class of its own; transformers' HuBERT is what runs."""
    mert = audiocraft.save_mert(tmp_path / "mert")
    (mert / "modeling_MERT.py").write_text("raise SystemExit('executed')")
    _, checkpoint = load(ModelSource(folders[0], style_encoder=str(mert)))
    model = checkpoint.style_features.model
    assert type(model).__module__.startswith("transformers.")
    assert checkpoint.style_features.sample_rate_hz == 24_000


@pytest.mark.parametrize("extra", [{"feature_extractor_cqt": True}, {"attention_relax": 32.0}])
def test_a_mert_that_is_no_hubert_is_refused(
    folders: tuple[str, str], tmp_path: Path, extra: dict
) -> None:
    mert = audiocraft.save_mert(tmp_path / "mert", **extra)
    with pytest.raises(CheckpointError, match="is no part of a HuBERT"):
        load(ModelSource(folders[0], style_encoder=str(mert)))
