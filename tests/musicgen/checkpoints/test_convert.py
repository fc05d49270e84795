"""convert(): one folder that loads offline and makes the same music."""

import json
from pathlib import Path

import pytest
import torch
from transformers import (
    MusicgenForConditionalGeneration,
    MusicgenMelodyForConditionalGeneration,
)

from musicgen.checkpoints.convert import convert
from musicgen.checkpoints.describe import describe
from musicgen.config import ModelSource
from musicgen.model import MusicGen
from tests.musicgen import audiocraft_files as audiocraft
from tests.musicgen.checkpoint_files import save_text_model

KINDS = [("text", False), ("text", True), ("melody", False), ("melody", True), ("style", False)]
WAV = 0.3 * torch.randn(1, 40_000, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def saved(tmp_path: Path, kind: str, *, stereo: bool = False) -> tuple[Path, str | None]:
    """A model in AudioCraft's layout and, for a style model, the folder of a MERT."""
    mert = str(audiocraft.save_mert(tmp_path / "mert")) if kind == "style" else None
    return audiocraft.save(tmp_path / "model", kind, stereo=stereo), mert


def music(model: MusicGen) -> torch.Tensor:
    """Two clips, one of them with whatever audio the model listens to."""
    model.set_generation_params(duration=0.3)
    if model.info.kind == "text":
        return model.generate(["disco", None], seeds=[0, 1])
    return model.generate_with_chroma(["disco", None], [WAV, None], 32_000, seeds=[0, 1])


@pytest.mark.parametrize(("kind", "stereo"), KINDS)
def test_the_folder_stands_alone_and_makes_the_same_music(
    tmp_path: Path, kind: str, stereo: bool
) -> None:
    source, mert = saved(tmp_path, kind, stereo=stereo)
    wanted = ModelSource(str(source), style_encoder=mert)
    expected = music(MusicGen.get_pretrained(wanted, "cpu"))
    info = convert(wanted, tmp_path / "new" / "converted")
    for folder in ("model", "t5", "mert"):  # nothing of the source is needed any more
        if (tmp_path / folder).exists():
            (tmp_path / folder).rename(tmp_path / f"{folder}-gone")
    model = MusicGen.get_pretrained(info.path, "cpu")
    assert model.info.layout == ("own" if kind == "style" else "transformers")
    assert (model.info.kind, model.audio_channels) == (kind, 1 + stereo)
    assert model.info.max_duration_s == 2.0
    assert torch.equal(music(model), expected)
    assert model.info.own_stride_s is None
    assert not list((tmp_path / "new").glob(".*"))
    assert not list(Path(info.path).glob("*.bin"))


@pytest.mark.parametrize("kind", ["text", "melody"])
def test_transformers_loads_the_folder(tmp_path: Path, kind: str) -> None:
    source, _ = saved(tmp_path, kind)
    convert(str(source), tmp_path / "converted")
    classes = {
        "text": MusicgenForConditionalGeneration,
        "melody": MusicgenMelodyForConditionalGeneration,
    }
    model, problems = classes[kind].from_pretrained(
        tmp_path / "converted", output_loading_info=True
    )
    assert not problems["missing_keys"]
    assert not problems["unexpected_keys"]
    ours = MusicGen.get_pretrained(str(tmp_path / "converted"), "cpu").lm
    heads = model.decoder.lm_heads
    assert all(torch.equal(a.weight, b.weight) for a, b in zip(heads, ours.linears, strict=True))


def test_half_precision_halves_the_folder(tmp_path: Path) -> None:
    source, _ = saved(tmp_path, "text")
    full, half = (
        Path(convert(str(source), tmp_path / dtype, dtype=dtype).path) for dtype in ("fp32", "fp16")
    )
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (full, half)]
    assert sizes[1] < 0.6 * sizes[0]
    assert music(MusicGen.get_pretrained(str(half), "cpu")).isfinite().all()


def test_what_transformers_has_no_place_for_gets_our_own_layout(tmp_path: Path) -> None:
    """Equal widths of T5 and model: transformers would leave the projection out."""
    save_text_model(tmp_path / "equal", text_dim=32)
    source = MusicGen.get_pretrained(str(tmp_path / "equal"), "cpu")
    info = convert(str(tmp_path / "equal"), tmp_path / "converted")
    config = json.loads((tmp_path / "converted" / "config.json").read_text())
    assert (info.layout, config["model_type"], config["layout_version"]) == (
        "own", "musicgen_batch", 1,
    )  # fmt: skip
    assert torch.equal(music(MusicGen.get_pretrained(info.path, "cpu")), music(source))


def test_licence_and_origin_stay_with_the_folder(tmp_path: Path) -> None:
    info = convert("tiny", tmp_path / "converted")
    assert info.weights_licence == "Apache-2.0"
    card = (tmp_path / "converted" / "README.md").read_text()
    assert f"Converted from tiny ({describe('tiny').weights_hash})" in card


def test_nothing_is_overwritten_and_nothing_is_left_half_done(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "song.flac").write_bytes(b"music")
    with pytest.raises(ValueError, match="is there and not empty; name a new folder"):
        convert("tiny", tmp_path / "mine")
    source, _ = saved(tmp_path, "style")
    with pytest.raises(ValueError, match=r"came without m-a-p/MERT-v1-95M.*style_encoder="):
        convert(str(source), tmp_path / "converted")
    assert not (tmp_path / "converted").exists()
