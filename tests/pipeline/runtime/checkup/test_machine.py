"""What the checks of packages, GPUs, memory and checkpoints say, from what they find."""

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from musicgen.checkpoints.describe import TINY_FOLDER
from musicgen.config import ModelSource
from pipeline.runtime.checkup import hardware, software
from pipeline.runtime.checkup.finding import Finding, from_json, timed
from pipeline.runtime.checkup.model import checkpoint, differing

GB = 10**9
CARD = {"name": "L4", "free": 20 * GB, "total": 24 * GB, "capability": "8.9"}
FACTS: dict[str, Any] = {
    "torch": "2.14.0", "cuda": "13.0", "torchaudio": "2.11.0", "torchaudio_error": None,
    "gpus": [CARD], "gpu_error": None,
}  # fmt: skip


def installed(folder: Path, name: str, release: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts another release of a package before the installed one, as pip's metadata has it."""
    place = folder / f"{name}-{release}.dist-info"
    place.mkdir()
    (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {release}\n")
    monkeypatch.syspath_prepend(folder)


class TestPackages:
    def test_those_of_this_environment_fit(self) -> None:
        (finding,) = software.packages()
        assert finding.state == "ok", finding
        assert "ray 2." in finding.found

    @pytest.mark.parametrize("name", ["torchaudio", "ray", "transformers"])
    def test_a_release_that_does_not_fit(
        self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        installed(tmp_path, name, "0.1", monkeypatch)

        (finding,) = software.packages()

        assert finding.state == "wrong"
        assert finding.found.startswith(f"{name} 0.1 is outside ")
        assert finding.way_out.startswith(f"pip install '{name}")

    def test_a_python_that_is_too_old(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert [each.state for each in software.python()] == ["ok"]
        monkeypatch.setattr(sys, "version_info", (3, 9, 1))
        (finding,) = software.python()
        assert finding.state == "wrong"
        assert "3.11 to 3.13" in finding.found

    def test_what_is_optional_is_never_wrong(self) -> None:
        found = list(software.optional())
        assert {each.check for each in found} == {"demucs", "torchcodec", "c2pa"}
        assert {each.state for each in found} <= {"ok", "note"}
        assert all(each.way_out for each in found if each.state == "note")


class TestGpus:
    def test_a_card_with_room(self) -> None:
        (finding,) = hardware.gpus(FACTS, 4 * GB)
        assert finding.state == "ok"
        assert finding.found == "0: L4, 20.0 of 24.0 GB free, compute capability 8.9"

    def test_a_card_that_the_weights_do_not_fit(self) -> None:
        (finding,) = hardware.gpus(FACTS, 21 * GB)
        assert finding.state == "wrong"
        assert "less than the weights, 21.0 GB" in finding.found
        assert "smaller model" in finding.way_out

    @pytest.mark.skipif(any(Path("/dev").glob("nvidia[0-9]*")), reason="a GPU is here")
    def test_no_card_is_a_note(self) -> None:
        (finding,) = hardware.gpus(FACTS | {"gpus": []}, None)
        assert finding.state == "note"

    @pytest.mark.skipif(any(Path("/dev").glob("nvidia[0-9]*")), reason="a GPU is here")
    def test_no_card_is_wrong_where_the_settings_ask_for_one(self) -> None:
        (finding,) = hardware.gpus(FACTS | {"gpus": []}, None, needed=True)
        assert finding.state == "wrong"
        assert "device: auto" in finding.way_out

    def test_a_card_that_torch_cannot_use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def devices(self: Path, pattern: str) -> list[Path]:
            return [Path("/dev/nvidia0")]

        monkeypatch.setattr(Path, "glob", devices)
        told = FACTS | {"gpus": [], "gpu_error": "CUDA driver version is insufficient"}

        (finding,) = hardware.gpus(told, None)

        assert finding.state == "wrong"
        assert "CUDA driver version is insufficient" in finding.found
        assert "580 or newer" in finding.way_out


def test_memory_is_compared_with_the_weights() -> None:
    (small,) = hardware.memory(1)
    (large,) = hardware.memory(10**15)
    assert (small.state, large.state) == ("ok", "wrong")
    assert "less than" in large.found


class TestCheckpoint:
    def test_a_complete_one(self) -> None:
        (finding,), size, digest = checkpoint(ModelSource("tiny"))
        assert finding.state == "ok"
        assert size
        assert digest
        assert digest[:12] in finding.found

    @pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
    def test_one_that_lacks_a_file(self, name: str, tmp_path: Path) -> None:
        folder = tmp_path / "model"
        shutil.copytree(TINY_FOLDER, folder)
        (folder / name).unlink()

        (finding,), size, digest = checkpoint(ModelSource(str(folder)))

        assert finding.state == "wrong"
        assert (size, digest) == (None, None)
        assert f"musicgen-batch convert {folder} FOLDER" in finding.way_out

    def test_one_that_is_truncated(self, tmp_path: Path) -> None:
        folder = tmp_path / "model"
        shutil.copytree(TINY_FOLDER, folder)
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1])

        (finding,), _, _ = checkpoint(ModelSource(str(folder)))

        assert "the file is truncated or damaged" in finding.found

    def test_nodes_that_hold_different_weights(self) -> None:
        assert list(differing({"a": "x", "b": "x"})) == []
        (finding,) = differing({"a": "x", "b": "y"})
        assert finding.state == "wrong"
        assert "a x, b y" in finding.found


def test_findings_travel_as_json_and_know_their_time() -> None:
    (finding,) = timed([lambda: [Finding("x", "note", "y", "z", node="n")]])
    assert finding.took_s > 0
    assert from_json(finding.as_json()) == Finding(
        "x", "note", "y", "z", round(finding.took_s, 4), "n"
    )
