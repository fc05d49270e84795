"""The same clips as ever: ids always, bytes wherever torch and the processor are the recorded ones.

`tests/golden/clips.json` was recorded before the folders were laid out anew. A change of ids makes
every user's dataset again, and a change of bytes breaks the comparison of resumed runs: record it
anew only for a reason that the CHANGELOG names:
`python -m tests.integration.test_unchanged_clips`.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from manifests.build import build
from pipeline import ledger
from pipeline.ledger.columns import VERSIONED_PACKAGES, field_of_package
from pipeline.storage import open_storage
from tests.integration.jobs import EXAMPLES, run_here, write_manifest
from tests.integration.test_dataset import mixed_rows

pytestmark = pytest.mark.long

RECORDED = Path(__file__).parents[1] / "golden" / "clips.json"


def cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if "model name" in line), "?")


def make(folder: Path) -> dict[str, Any]:
    """Both runs: their clips as `run/id/take` to what is compared, and what the bytes depend on."""
    demo = folder / "demo.parquet"
    build(str(EXAMPLES / "demo.jsonl"), str(demo))
    mixed = write_manifest(folder / "mixed.parquet", mixed_rows(str(EXAMPLES / "audio")))
    sections = yaml.safe_load((EXAMPLES / "demo.yaml").read_text())
    flags = {"model": sections.pop("model")}
    for settings in sections.values():
        flags |= settings
    run_here(demo, str(folder / "demo"), **flags)
    run_here(mixed, str(folder / "mixed"))
    clips, versions = {}, ""
    for name in ("demo", "mixed"):
        rows = ledger.read_clips(open_storage(str(folder / name))).to_pylist()
        for row in rows:
            clips[f"{name}/{row['id']}/{row['take']}"] = {
                key: row[key] for key in ("clip_id", "n_samples", "audio_sha256")
            }
            told = {name: row["versions"][field_of_package(name)] for name in VERSIONED_PACKAGES}
            versions = json.dumps(told, sort_keys=True)
    there = {
        "versions": versions,
        "cpu": cpu_name(),
        "isa": torch.backends.cpu.get_cpu_capability(),
    }
    return {"made_on": there, "clips": clips}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return make(tmp_path_factory.mktemp("unchanged"))


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    return dict(json.loads(RECORDED.read_text()))


def test_clips_keep_their_ids_and_lengths(made: dict[str, Any], recorded: dict[str, Any]) -> None:
    def without_bytes(found: dict[str, Any]) -> dict[str, Any]:
        names = ("clip_id", "n_samples")
        return {key: {name: clip[name] for name in names} for key, clip in found["clips"].items()}

    assert len(made["clips"]) == 29
    assert without_bytes(made) == without_bytes(recorded)


def test_clips_keep_their_bytes(made: dict[str, Any], recorded: dict[str, Any]) -> None:
    if made["made_on"] != recorded["made_on"]:
        pytest.skip(f"recorded on {recorded['made_on']}, this is {made['made_on']}")
    assert made["clips"] == recorded["clips"]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        RECORDED.write_text(json.dumps(make(Path(name)), indent=1, sort_keys=True) + "\n")
