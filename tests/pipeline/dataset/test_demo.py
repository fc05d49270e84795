"""The demo's own output, in the three layouts: opened, migrated, published and opened again."""

import io
from pathlib import Path
from typing import Any

import pytest
import soundfile
import yaml

from manifests.build import build
from pipeline import ledger
from pipeline.dataset.card import identity_of
from pipeline.dataset.to_hub import publish_to_hub
from pipeline.ledger import SchemaError
from pipeline.ledger.lease import Lease
from pipeline.ledger.maintain import compact
from pipeline.ledger.verify import verify
from pipeline.run_record import read_status
from pipeline.storage import open_storage
from tests.hub import TOKEN, running_hub
from tests.integration.jobs import EXAMPLES, run_here
from tests.pipeline.dataset.opened import load_rows
from tests.pipeline.dataset.outputs import LAYOUTS
from tests.pipeline.outputs import as_version_2

pytestmark = pytest.mark.long


def make(folder: Path, output: str, **more: Any) -> Any:
    """`make demo`, in this process."""
    manifest = folder / "demo.parquet"
    if not manifest.exists():
        build(str(EXAMPLES / "demo.jsonl"), str(manifest))
    sections = yaml.safe_load((EXAMPLES / "demo.yaml").read_text())
    flags = {"model": sections.pop("model")}
    for settings in sections.values():
        flags |= settings
    return run_here(manifest, str(folder / output), **(flags | more))


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an output for each layout, by its name."""
    folder = tmp_path_factory.mktemp("demo")
    for mode in LAYOUTS:
        make(folder, mode, audio=mode)
    return folder


@pytest.mark.usefixtures("empty_caches")
@pytest.mark.parametrize("mode", LAYOUTS)
def test_22_rows_with_prompt_and_audio_of_the_length_that_the_row_says(
    demo: Path, mode: str
) -> None:
    rows = load_rows(demo / mode, mode)
    assert len(rows) == 22
    wanted = {
        (row["id"], row["take"]): row["prompt"] or (None if mode != "webdataset" else "")
        for row in ledger.read_clips(open_storage(str(demo / mode))).to_pylist()
    }
    assert {(row["id"], row["take"]): row["prompt"] for row in rows} == wanted
    for row in rows:
        samples, rate = soundfile.read(io.BytesIO(row["data"]))
        assert (len(samples), rate) == (row["n_samples"], 16_000)


@pytest.mark.parametrize("mode", LAYOUTS)
def test_the_runs_card_has_the_figures_of_the_ledger(demo: Path, mode: str) -> None:
    storage = open_storage(str(demo / mode))
    text, status = storage.get("README.md").decode(), read_status(storage)
    assert f"| clips | {status.clips} |" in text
    assert f"| audio | {status.audio_s:.1f} s |" in text
    assert f"| rows that failed | {status.dead_letters} |" in text
    assert "Columns of its own manifest: `mood`." in text


def test_an_output_of_version_2_is_refused_migrated_and_gone_on_with(demo: Path) -> None:
    storage = open_storage(str(demo / "files"))
    before = ledger.read_clips(storage, ["clip_id", "audio_sha256"]).sort_by("clip_id")
    as_version_2(storage)
    with pytest.raises(SchemaError, match=r"`musicgen-batch compact`"):
        make(demo, "files")
    with Lease.acquire(storage) as lease:
        compact(storage, lease)
    summary = make(demo, "files")
    assert (summary.plan.pending, summary.clips) == (0, 0)
    assert ledger.read_clips(storage, ["clip_id", "audio_sha256"]).sort_by("clip_id") == before
    assert verify(storage).ok


@pytest.mark.usefixtures("empty_caches")
def test_from_the_stand_in_it_comes_back_as_it_was(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import snapshot_download

    storage = open_storage(str(demo / "files"))
    with running_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        publish_to_hub(storage, "hf://datasets/user/demo", print)
        back = snapshot_download(
            "user/demo", repo_type="dataset", local_dir=tmp_path / "back", token=TOKEN,
            endpoint=hub.endpoint,
        )  # fmt: skip
    rows = load_rows(Path(back), "files")
    assert len(rows) == 22
    assert verify(open_storage(back)).n_clips == 22
    ours = identity_of((demo / "files/README.md").read_text())
    theirs = identity_of((Path(back) / "README.md").read_text())
    assert ours == theirs
