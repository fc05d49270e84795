"""`models` and `convert`."""

from pathlib import Path

from click.testing import CliRunner

from musicgen import MusicGen
from musicgen.checkpoints.describe import describe
from musicgen.registry import FAMILY
from pipeline.cli.root import main
from tests.musicgen.audiocraft_files import save, save_mert, save_t5


def test_models_lists_the_family_with_licence_and_memory() -> None:
    result = CliRunner().invoke(main, ["models", "--slots", "32"])

    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    for name, member in FAMILY.items():
        (line,) = [line for line in lines if line.split()[0] == name]
        assert member.hub_id in line
        assert line.endswith("CC-BY-NC-4.0")
    more = CliRunner().invoke(main, ["models", "--slots", "64"]).output.splitlines()
    assert float(more[1].split()[4]) > float(lines[1].split()[4])  # memory grows with slots


def test_convert_writes_a_folder_that_loads_by_itself(tmp_path: Path) -> None:
    source, target = save(tmp_path / "audiocraft", "style"), tmp_path / "whole"
    parts = ["--text-encoder", str(save_t5(tmp_path / "t5"))]
    parts += ["--style-encoder", str(save_mert(tmp_path / "mert"))]

    result = CliRunner().invoke(main, ["convert", str(source), str(target), *parts])

    assert result.exit_code == 0, result.output
    assert describe(str(target)).kind == "style"
    assert describe(str(target)).weights_hash in result.output
    assert MusicGen.get_pretrained(str(target), device="cpu").info.style is not None


def test_convert_with_a_text_encoder_that_is_not_there_writes_nothing(tmp_path: Path) -> None:
    source, target = save(tmp_path / "audiocraft", "text"), tmp_path / "out"
    nowhere = str(tmp_path / "nowhere")

    result = CliRunner().invoke(
        main, ["convert", str(source), str(target), "--text-encoder", nowhere]
    )

    assert result.exit_code == 2, result.output
    assert nowhere in result.output
    assert not target.exists()
