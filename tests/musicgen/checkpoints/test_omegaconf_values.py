"""OmegaConf's YAML and pickles, read without it: its own reading is what they must give."""

import shutil
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from musicgen.checkpoints.describe import describe
from musicgen.checkpoints.errors import CheckpointError
from musicgen.checkpoints.load import load
from musicgen.checkpoints.omegaconf_values import resolved
from musicgen.config import ModelSource
from tests.musicgen import audiocraft_files as audiocraft
from tests.musicgen.test_audiogen import NOISE

pytestmark = pytest.mark.slow  # seconds, all together

REFERRING = """
sample_rate: 32000
channels: 1
encodec: {sample_rate: "${sample_rate}", causal: false, nested: {up: "${..causal}", same: "${.up}"}}
seanet: {causal: "${encodec.causal}", channels: "${channels}", ratios: [8, 5, "${channels}"]}
chain: "${seanet.causal}"
whole: ${encodec}
item: ${seanet.ratios.1}
text: rate_${sample_rate}_${channels}
"""


def test_references_are_resolved_as_omegaconf_does() -> None:
    theirs = OmegaConf.to_container(OmegaConf.create(REFERRING), resolve=True)
    assert resolved(yaml.safe_load(REFERRING), "x") == theirs


def test_what_can_not_be_resolved_stays_and_a_circle_is_an_error() -> None:
    odd = {"a": "${oc.env:HOME}", "b": "${nowhere.at.all}", "c": "${", "d": "${a b}"}
    assert resolved(odd, "x") == odd
    with pytest.raises(CheckpointError, match=r"model\.bin: xp\.cfg: \w+ refers to itself"):
        resolved({"a": "${b}", "b": "${a}"}, "model.bin")


def referring(cfg: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a melody model as AudioCraft writes it, with references."""
    cfg["conditioners"]["self_wav"]["chroma_stem"]["sample_rate"] = "${sample_rate}"
    cfg["dataset"] |= {"channels": "${channels}", "sample_rate": "${sample_rate}"}
    return cfg


def test_a_checkpoint_with_references_is_the_one_without(tmp_path: Path) -> None:
    folder = audiocraft.save(tmp_path / "model", "melody")
    expected, path = describe(str(folder)), folder / "state_dict.bin"
    package = torch.load(path, weights_only=True)
    cfg = referring(yaml.safe_load(package["xp.cfg"]))
    torch.save(package | {"xp.cfg": yaml.safe_dump(cfg)}, path)
    codec = torch.load(folder / "compression_state_dict.bin", weights_only=True)
    cfg = yaml.safe_load(codec["xp.cfg"])
    cfg["seanet"] |= {"causal": "${encodec.causal}", "channels": "${channels}"}
    cfg["encodec"] |= {"sample_rate": "${sample_rate}", "channels": "${channels}"}
    torch.save(codec | {"xp.cfg": yaml.safe_dump(cfg)}, folder / "compression_state_dict.bin")
    info, checkpoint = load(str(folder))
    assert (info.chroma, info.hop_samples) == (expected.chroma, expected.hop_samples)
    plain = load(str(audiocraft.save(tmp_path / "plain", "melody")))[1]
    wav = NOISE[None]
    assert torch.equal(checkpoint.codec.encode(wav)[0], plain.codec.encode(wav)[0])


def training_run(folder: Path, target: Path, **beside: Any) -> Path:
    """The folder of a training run: the configuration as an object, optimizer and history."""
    package = torch.load(folder / "state_dict.bin", weights_only=True)
    cfg = OmegaConf.create(referring(yaml.safe_load(package["xp.cfg"])))
    model = package["best_state"]
    target.mkdir(parents=True)
    torch.save(
        {
            "best_state": {"model": OrderedDict(model)},
            "fsdp_best_state": {},
            "model": {name: tensor + 1 for name, tensor in model.items()},  # of the last epoch
            "optimizer": {"state": {0: {"step": 3}}, "param_groups": [{"betas": (0.9, 0.95)}]},
            "history": [{"train": {"ce": 3.5}}],
            "xp.cfg": cfg,
            "xp.sig": "0123abcd",
        }
        | beside,
        target / "checkpoint.th",
    )
    shutil.copy(folder / "compression_state_dict.bin", target / "compression_state_dict.bin")
    return target


def test_a_training_checkpoint_is_read_without_omegaconf(tmp_path: Path) -> None:
    folder = audiocraft.save(tmp_path / "model", "melody")
    run = training_run(folder, tmp_path / "xps" / "0123abcd")
    expected, exported = load(str(folder))
    info, checkpoint = load(str(run))
    assert (info.layout, info.kind, info.chroma) == ("audiocraft", "melody", expected.chroma)
    theirs, ours = exported.lm.state_dict(), checkpoint.lm.state_dict()
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
    assert info.weights_hash != expected.weights_hash  # another file


def test_a_training_checkpoint_names_its_codec(tmp_path: Path) -> None:
    folder = audiocraft.save(tmp_path / "model", "melody")
    codec = tmp_path / "codec"
    codec.mkdir()
    (folder / "compression_state_dict.bin").rename(codec / "compression_state_dict.bin")
    package = torch.load(folder / "state_dict.bin", weights_only=True)
    cfg = yaml.safe_load(package["xp.cfg"])
    for named in (f"//pretrained/{codec}", "//sig/0123abcd"):
        run = tmp_path / named.rpartition("/")[2]
        run.mkdir(exist_ok=True)
        cfg["compression_model_checkpoint"] = named
        torch.save(
            {"best_state": package["best_state"], "xp.cfg": OmegaConf.create(cfg)},
            run / "checkpoint.th",
        )
    with pytest.raises(ValueError, match="no compression_state_dict"):
        describe(str(tmp_path / "0123abcd"))
    (codec / "checkpoint.th").rename(tmp_path / "run.th")
    (tmp_path / "run").mkdir()
    (tmp_path / "run.th").rename(tmp_path / "run" / "checkpoint.th")
    assert describe(str(tmp_path / "run")).submodels.codec == str(codec)
    given = ModelSource(str(tmp_path / "0123abcd"), codec=str(codec))
    assert describe(given).hop_samples == 640


class Bomb:
    """What a malicious checkpoint would hold beside a configuration."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        import os

        return os.mkdir, (str(self.path),)


class Looks:
    """Code under a name that is expected there."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return eval, (self.text,)


def test_no_code_of_a_training_checkpoint_is_executed(tmp_path: Path) -> None:
    folder = audiocraft.save(tmp_path / "model", "melody")
    run = training_run(folder, tmp_path / "a", extra=Bomb(tmp_path / "pwned"))
    with pytest.raises(CheckpointError, match="would execute its code; export it first"):
        describe(str(run))
    text = f"__import__('os').mkdir({str(tmp_path / 'pwned')!r})"
    run = training_run(folder, tmp_path / "b", extra=Looks(text))  # an expected module: `builtins`
    assert describe(str(run)).kind == "melody"  # a stand-in took the place of `eval`
    assert not (tmp_path / "pwned").exists()
