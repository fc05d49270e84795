"""An adapter, or weights in int8, in a job: other music under other clip ids, and provenance that
names it."""

import json
from pathlib import Path

import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from musicgen.checkpoints.describe import describe
from musicgen.checkpoints.load import load
from pipeline import ledger
from pipeline.cli.root import main
from pipeline.storage import open_storage
from tests.integration.jobs import clips, problems, write_manifest


def save_adapter(folder: Path) -> Path:
    """A LoRA of the bundled model's first layer, in peft's layout."""
    width = load("tiny")[1].lm.cfg.dim
    generator = torch.Generator().manual_seed(1)
    name = "base_model.model.decoder.model.decoder.layers.0.self_attn.v_proj.lora_"
    shapes = {"A": (2, width), "B": (width, 2)}
    folder.mkdir()
    tensors = {
        f"{name}{matrix}.weight": torch.randn(shape, generator=generator)
        for matrix, shape in shapes.items()
    }
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["v_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def test_each_makes_other_clips_and_provenance_names_it(tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "jazz")
    rows = [{"id": "a", "prompt": "C major, slow flute melody", "duration_s": 0.3}]
    manifest = write_manifest(tmp_path / "m.parquet", rows)
    made, runs = [], []
    adapted, int8 = f"--adapter={adapter}:0.5", "--weights=int8"
    for number, flags in enumerate([[], [adapted], [int8], [adapted, int8]]):
        output = f"file://{tmp_path}/out{number}"
        args = ["--model=tiny", f"--manifest={manifest}", f"--output={output}", *flags]
        result = CliRunner().invoke(main, ["run", "--local", *args])
        assert result.exit_code == 0, result.output
        assert problems(output) == []
        made += clips(output)
        runs += ledger.read_runs(open_storage(output))

    for column in ("clip_id", "row_key", "weights_hash", "audio_sha256"):
        assert len({row[column] for row in made}) == len(made), column
    names = ["tiny", "tiny + jazz:0.5", "tiny in int8", "tiny + jazz:0.5 in int8"]
    assert [row["model"] for row in made] == names
    assert made[0]["weights_hash"] == describe("tiny").weights_hash
    assert [run["model"]["adapters"] for run in runs] == [[], ["jazz:0.5"], [], ["jazz:0.5"]]
    assert [run["config"]["model"]["weights"] for run in runs] == ["full", "full", "int8", "int8"]
    assert runs[1]["config"]["model"]["adapter"] == [f"{adapter}:0.5"]


def test_an_adapter_that_is_not_there_ends_the_run_before_it_begins(tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path / "m.parquet", [{"prompt": "x", "duration_s": 0.3}])
    args = ["--model=tiny", f"--manifest={manifest}", f"--output={tmp_path}/out"]
    result = CliRunner().invoke(main, ["run", "--local", *args, "--adapter=no/where/at/all"])
    assert result.exit_code == 2, result.output
    assert "adapter 'no/where/at/all': no such folder" in result.output
