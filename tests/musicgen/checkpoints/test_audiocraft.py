"""Checkpoints in AudioCraft's layout: every release of it, every kind, and no code executed."""

import os
import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from transformers import EncodecConfig, EncodecModel, T5Config, T5EncoderModel

from musicgen.checkpoints.describe import ModelNotFoundError, describe
from musicgen.checkpoints.load import CheckpointError, Submodels, load
from musicgen.codec.codec import CompressionModel
from musicgen.conditioning.text import TextEncoder
from musicgen.config import ModelSource
from musicgen.model import MusicGen
from tests.musicgen import audiocraft_files as audiocraft
from tests.musicgen.checkpoint_files import GOLDEN, golden
from tests.musicgen.codec.test_codec import encodec

KINDS = [("text", False), ("text", True), ("melody", False), ("melody", True), ("style", False)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return audiocraft.save(tmp_path / "model")


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def repack(path: Path, **changes: object) -> None:
    """Changes entries of a file; None removes one."""
    package = torch.load(path, weights_only=True) | changes
    torch.save({key: value for key, value in package.items() if value is not None}, path)


def recfg(folder: Path, change: dict) -> None:
    """Changes the language model's configuration, section by section."""
    path = folder / "state_dict.bin"
    cfg = yaml.safe_load(torch.load(path, weights_only=True)["xp.cfg"])
    for section, entries in change.items():
        cfg[section] = cfg[section] | entries if isinstance(entries, dict) else entries
    repack(path, **{"xp.cfg": yaml.safe_dump(cfg)})


def test_a_checkpoint_of_audiocraft_gives_the_tokens_of_audiocraft(tmp_path: Path) -> None:
    """Its own configuration and tensors, its T5, through the public class."""
    package = {
        "best_state": golden("lm_text.pt")["state_dict"],
        "xp.cfg": (GOLDEN / "lm_text.yaml").read_text(),
    }
    torch.save(package, tmp_path / "state_dict.bin")
    numbers = golden("t5.pt")
    t5 = T5EncoderModel(T5Config(**numbers["t5_config"]))
    t5.load_state_dict(numbers["t5_state_dict"])
    ids = {case["prompt"]: case["input_ids"][0].tolist() for case in numbers["cases"].values()}
    codec = CompressionModel(
        EncodecModel(
            EncodecConfig(
                sampling_rate=32_000, num_filters=2, hidden_size=8, codebook_size=64,
                upsampling_ratios=[8, 5, 4, 4], target_bandwidths=[1.2], num_lstm_layers=1,
            )
        )
    )  # fmt: skip
    codec.cardinality = 48  # the toy's, which transformers' EnCodec can't have: no power of two
    model = MusicGen.get_pretrained(
        str(tmp_path),
        submodels=Submodels(
            text_encoder=TextEncoder(t5, lambda prompt: SimpleNamespace(input_ids=ids[prompt])),
            codec=codec,
        ),
    )
    model.set_generation_params(use_sampling=False, duration=16 / 50)
    cases = golden("lm_text.pt")["cases"]
    prompts = [numbers["cases"][name]["prompt"] for name in cases]
    _, tokens = model.generate(prompts, return_tokens=True)
    for codes, case in zip(tokens, cases.values(), strict=True):
        assert torch.equal(codes, case["greedy"][0])


@pytest.mark.parametrize(("kind", "stereo"), KINDS)
def test_every_kind_is_described_loaded_and_run(tmp_path: Path, kind: str, stereo: bool) -> None:
    folder = audiocraft.save(tmp_path / "model", kind, stereo=stereo)
    mert = audiocraft.save_mert(tmp_path / "mert") if kind == "style" else None
    info, checkpoint = load(ModelSource(str(folder), style_encoder=mert and str(mert)))
    assert (info.layout, info.kind, info.channels) == ("audiocraft", kind, 1 + stereo)
    assert (info.sample_rate_hz, info.hop_samples, info.frame_rate_hz) == (32_000, 640, 50)
    assert (info.n_codebooks, info.max_duration_s) == (8 if stereo else 4, 2.0)
    assert info.chroma == (audiocraft.CHROMA if kind == "melody" else None)
    assert info.style == (audiocraft.STYLE if kind == "style" else None)
    state = checkpoint.lm.state_dict()
    for name, tensor in audiocraft.lm_state(kind, stereo=stereo).items():
        if "chroma.spec" not in name:
            assert torch.equal(state[name], tensor)
    model = MusicGen(info, checkpoint)
    model.set_generation_params(duration=0.1)
    wav = model.generate(["disco", None])
    assert wav.shape == (2, 1 + stereo, 5 * 640)
    assert wav.isfinite().all()
    assert not torch.equal(wav[0], wav[1])


def test_the_codec_inside_is_audiocrafts(folder: Path) -> None:
    _, checkpoint = load(str(folder))
    case = golden("encodec_cases.pt")["constant_exact"]
    assert torch.equal(checkpoint.codec.encode(case["wav"])[0], case["codes"])
    decoded = checkpoint.codec.decode(case["codes"])
    torch.testing.assert_close(decoded, case["decoded"], atol=1e-6, rtol=1e-5)


def test_a_stereo_codec_interleaves_left_and_right(tmp_path: Path) -> None:
    _, checkpoint = load(str(audiocraft.save(tmp_path / "model", stereo=True)))
    case = golden("encodec_cases.pt")["stereo_exact"]
    assert torch.equal(checkpoint.codec.encode(case["wav"])[0], case["codes"])


@pytest.mark.parametrize("form", ["transformers", "audiocraft", "marked"])
def test_a_codec_by_reference(folder: Path, tmp_path: Path, form: str) -> None:
    codec, expected = tmp_path / "codec", load(str(folder))[1].codec
    codec.mkdir()
    if form == "transformers":
        encodec().save_pretrained(codec)
    else:
        (folder / "compression_state_dict.bin").rename(codec / "compression_state_dict.bin")
    pointer = f"//pretrained/{codec}" if form == "marked" else str(codec)
    torch.save(
        {"pretrained": pointer, "exported": True, "version": "1.4.0a2"},
        folder / "compression_state_dict.bin",
    )
    info, checkpoint = load(str(folder))
    assert info.submodels.codec == str(codec)
    codes = torch.randint(32, (1, 4, 20))
    assert torch.equal(checkpoint.codec.decode(codes), expected.decode(codes))


def test_every_release_of_the_layout_is_read(folder: Path) -> None:
    path, expected = folder / "state_dict.bin", load(str(folder))[1].lm.state_dict()
    state = torch.load(path, weights_only=True)["best_state"]
    layouts = {
        "first release": {"version": None, "exported": None},
        "a training run": {"best_state": {"model": state}, "exported": None},
        "a sharded run": {"best_state": {}, "fsdp_best_state": {"model": state}},
    }
    for layout, changes in layouts.items():
        repack(path, **changes)
        loaded = load(str(folder))[1].lm.state_dict()
        assert all(torch.equal(loaded[name], expected[name]) for name in expected), layout
    package = torch.load(path, weights_only=True)
    torch.save(package, path, _use_new_zipfile_serialization=False)  # of torches before 1.6
    assert torch.equal(load(str(folder))[1].lm.emb[0].weight, expected["emb.0.weight"])


def test_half_precision_files_run_in_fp32(folder: Path) -> None:
    state = torch.load(folder / "state_dict.bin", weights_only=True)["best_state"]
    repack(folder / "state_dict.bin", best_state={n: t.half() for n, t in state.items()})
    lm = load(str(folder))[1].lm
    assert {p.dtype for p in lm.parameters()} == {torch.float32}
    assert torch.equal(lm.emb[0].weight, state["emb.0.weight"].half().float())


class Bomb:
    """What a malicious checkpoint would hold."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["state_dict.bin", "compression_state_dict.bin"])
def test_no_code_of_a_checkpoint_is_executed(folder: Path, tmp_path: Path, name: str) -> None:
    package = torch.load(folder / name, weights_only=True)
    torch.save(package | {"xp.sig": Bomb(tmp_path / "pwned")}, folder / name)
    with pytest.raises(CheckpointError, match=r"would execute its code; export it first"):
        load(str(folder))
    (folder / name).write_bytes(pickle.dumps({"best_state": Bomb(tmp_path / "pwned")}, protocol=2))
    with pytest.raises(CheckpointError, match=name):
        load(str(folder))
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("keep", [0, 100, 5000])
def test_a_truncated_file_is_named(folder: Path, keep: int) -> None:
    path = folder / "state_dict.bin"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"state_dict\.bin: .*"):
        describe(str(folder))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"transformer_lm": {"bias_ff": True}}, r"transformer_lm\.bias_ff=True, only False"),
        ({"transformer_lm": {"positional_embedding": "rope"}}, "only 'sin' is known"),
        ({"codebooks_pattern": {"modeling": "unroll"}}, "codebooks follow 'unroll'"),
        ({"fuser": {"sum": ["description"]}}, "conditions enter by"),
        ({"conditioners": {"description": {"model": "clap"}}}, "only a T5 description"),
        ({"conditioners": {"genre": {"model": "lut"}}}, "only a T5 description and self_wav"),
        ({"dataset": {}}, None),
        ({"dataset": []}, "lacks or garbles"),
    ],
)
def test_what_we_can_not_run_is_refused(folder: Path, change: dict, message: str | None) -> None:
    recfg(folder, change)
    if message is None:
        assert describe(str(folder)).kind == "text"
        return
    with pytest.raises(CheckpointError, match=message):
        describe(str(folder))


def test_a_tensor_too_many_is_named(folder: Path) -> None:
    state = torch.load(folder / "state_dict.bin", weights_only=True)["best_state"]
    repack(folder / "state_dict.bin", best_state=state | {"mystery": torch.ones(1)})
    with pytest.raises(CheckpointError, match=r"1 unknown: mystery"):
        load(str(folder))


def test_a_t5_that_is_not_there_is_named_with_the_way_out(folder: Path, tmp_path: Path) -> None:
    recfg(folder, {"conditioners": {"description": {"model": "t5", "t5": {"name": "t5-base"}}}})
    with pytest.raises(ModelNotFoundError, match=r"google-t5/t5-base.*say text_encoder="):
        describe(str(folder))
    info = describe(ModelSource(str(folder), text_encoder=str(tmp_path / "t5")))
    assert info.submodels.text_encoder == str(tmp_path / "t5")


def test_a_cached_t5_is_found_under_the_name_that_the_hub_has_now(
    folder: Path, tmp_path: Path
) -> None:
    repository = tmp_path / "hub" / "models--google-t5--t5-base"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("c" * 40)
    (repository / "snapshots").mkdir()
    (tmp_path / "t5").rename(repository / "snapshots" / ("c" * 40))
    recfg(folder, {"conditioners": {"description": {"model": "t5", "t5": {"name": "t5-base"}}}})
    info, _ = load(str(folder))
    assert info.submodels.text_encoder == str(repository / "snapshots" / ("c" * 40))


def test_a_hub_repository_without_safetensors_is_read_from_its_bin_files(
    folder: Path, tmp_path: Path
) -> None:
    """As facebook/musicgen-style, which is on the hub in AudioCraft's layout only."""
    repository = tmp_path / "hub" / "models--facebook--musicgen-style"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("d" * 40)
    (repository / "snapshots").mkdir()
    folder.rename(repository / "snapshots" / ("d" * 40))
    info = describe("style")
    assert (info.layout, info.revision) == ("audiocraft", "d" * 40)
    assert info.weights_licence == "CC-BY-NC-4.0"


def test_a_t5_of_another_width_is_refused(folder: Path) -> None:
    t5 = T5EncoderModel(T5Config(vocab_size=9, d_model=16, d_kv=8, d_ff=8, num_layers=1))
    with pytest.raises(CheckpointError, match="reads a T5 of width 24, the text encoder has 16"):
        load(str(folder), Submodels(TextEncoder(t5, lambda prompt: SimpleNamespace())))


def test_the_hash_covers_the_sub_models(folder: Path, tmp_path: Path) -> None:
    before = describe(str(folder)).weights_hash
    weights = tmp_path / "t5" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert describe(str(folder)).weights_hash != before


def test_sub_models_of_a_folder_in_transformers_layout_are_replaced(tmp_path: Path) -> None:
    _, plain = load("tiny")
    info, other = load("tiny", Submodels(plain.text, plain.codec.model))
    assert other.text is plain.text
    assert other.codec.model is plain.codec.model
    assert info.weights_hash != describe("tiny").weights_hash
    with pytest.raises(CheckpointError, match=r"speaks 4 codebooks of 512, the codec 4 of 32"):
        load("tiny", Submodels(codec=encodec()))
