"""describe(): which folder a name means, and what is said when it is not usable."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from musicgen.checkpoints.describe import TINY_FOLDER, ModelNotFoundError, describe
from musicgen.config import ChromaConfig, ModelSource


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TINY_FOLDER, tmp_path / "model"))


def test_tiny_is_described_from_its_files() -> None:
    info = describe("tiny")
    assert (info.kind, info.sample_rate_hz, info.channels) == ("melody", 16_000, 1)
    assert (info.frame_rate_hz, info.hop_samples, info.n_codebooks) == (50, 320, 4)
    assert info.chroma == ChromaConfig(
        n_fft=4096, hop_length=2240, n_chroma=12, chroma_length=72, sample_rate_hz=16_000
    )
    assert info.max_duration_s == 10.0
    assert info.weights_licence == "Apache-2.0"
    assert sum(file.stat().st_size for file in TINY_FOLDER.iterdir()) < 10_000_000


def test_a_local_folder_has_the_same_hash_under_any_name(folder: Path) -> None:
    info = describe(str(folder))
    assert info.name == info.path == str(folder)
    assert info.weights_hash == describe("tiny").weights_hash
    assert len(info.weights_hash) == 32


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_the_hash_changes_with_one_byte(folder: Path, name: str) -> None:
    before = describe(str(folder)).weights_hash
    data = bytearray((folder / name).read_bytes())
    last = data.rindex(b"}") if name.endswith("json") else len(data) - 1
    data[last:] = b"\n" + data[last:] if name.endswith("json") else bytes([data[-1] ^ 1])
    (folder / name).write_bytes(data)
    assert describe(str(folder)).weights_hash != before


def test_model_card_and_generation_config_are_not_in_the_hash(folder: Path) -> None:
    before = describe(str(folder)).weights_hash
    (folder / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    (folder / "generation_config.json").unlink()
    info = describe(str(folder))
    assert info.weights_hash == before
    assert info.weights_licence == "CC-BY-NC-4.0"


def test_without_a_model_card_the_licence_is_unknown(folder: Path) -> None:
    (folder / "README.md").unlink()
    assert describe(str(folder)).weights_licence == "unknown"


def test_max_duration_is_30_s_unless_the_config_says_otherwise(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_duration_s": 12.5}))
    assert describe(str(folder)).max_duration_s == 12.5
    del config["max_duration_s"]
    (folder / "config.json").write_text(json.dumps(config))
    assert describe(str(folder)).max_duration_s == 30.0


def test_a_missing_folder_is_named_with_the_known_models(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"no such folder \(looked in .*nowhere.*tiny"):
        describe(str(tmp_path / "nowhere"))


def test_a_hub_id_that_is_not_cached_fails_clearly_when_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelNotFoundError, match=r"facebook/musicgen-small.*local Hugging Face"):
        describe("small")


def test_a_cached_hub_snapshot_is_found_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--someone--song"
    shutil.copytree(TINY_FOLDER, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    info = describe("someone/song")
    assert info.revision == commit
    assert info.weights_hash == describe("tiny").weights_hash


def test_a_revision_is_one_of_the_cached_snapshots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "models--someone--song"
    (repository / "refs").mkdir(parents=True)
    for branch, commit in (("main", "a" * 40), ("next", "b" * 40)):
        shutil.copytree(TINY_FOLDER, repository / "snapshots" / commit)
        (repository / "refs" / branch).write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert describe("someone/song").revision == "a" * 40
    assert describe(ModelSource("someone/song", revision="next")).revision == "b" * 40
    with pytest.raises(ModelNotFoundError, match="at revision 'gone'"):
        describe(ModelSource("someone/song", revision="gone"))


@pytest.mark.parametrize("keep", [0, 7, 500, -100])
def test_truncated_weights_are_noticed(folder: Path, keep: int) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    with pytest.raises(ModelNotFoundError, match=r"model\.safetensors: .*download it again"):
        describe(str(folder))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("config.json", r"no config\.json"),
        ("model.safetensors", r"neither model\.safetensors nor"),
        ("tokenizer.json", "no tokenizer"),
    ],
)
def test_a_missing_file_is_named(folder: Path, name: str, message: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ModelNotFoundError, match=message):
        describe(str(folder))


def test_a_missing_shard_is_named(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "part-1.safetensors")
    index = {"weight_map": {"a": "part-1.safetensors", "b": "part-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelNotFoundError, match=r"missing: part-2\.safetensors"):
        describe(str(folder))


def test_pickled_weights_are_refused_with_the_way_out(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelNotFoundError, match=r"pickled \.bin weights, which are not read"):
        describe(str(folder))


@pytest.mark.parametrize(
    ("config", "message"),
    [("{", "not valid JSON"), ("[]", "no JSON object"), ('{"model_type": "bert"}', "'bert'")],
)
def test_a_broken_or_foreign_config_is_refused(folder: Path, config: str, message: str) -> None:
    (folder / "config.json").write_text(config)
    with pytest.raises(ModelNotFoundError, match=message):
        describe(str(folder))


def test_a_name_alone_is_a_source_too() -> None:
    assert describe("tiny") == describe(ModelSource("tiny"))
    with pytest.raises(ModelNotFoundError, match="it has no revision 'main'"):
        describe(ModelSource("tiny", revision="main"))


def test_describing_a_model_imports_no_torch() -> None:
    code = (
        "import sys; from musicgen import ModelSource, SamplingParams, describe; "
        "describe(ModelSource('tiny')); "
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
