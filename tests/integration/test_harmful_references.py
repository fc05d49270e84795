"""References that end, hang or fill the process that reads them, among good neighbours, on Ray."""

from pathlib import Path

import pytest

from pipeline import job, ledger
from pipeline.storage import open_storage
from tests.integration.jobs import ids_and_takes, problems, run_in_process, write_manifest
from tests.pipeline.prepare.references import HARMS, LIMITS, WORDS, HarmedPrepare, harmful_rows


@pytest.mark.long  # what hangs is waited for, twice; test_actor.py does it without Ray
@pytest.mark.usefixtures("ray_cluster")
def test_harmful_references_are_kept_out_and_their_neighbours_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "Prepare", HarmedPrepare)
    rows = harmful_rows(tmp_path)
    output = f"file://{tmp_path}/out"

    summary = run_in_process(write_manifest(tmp_path / "m.parquet", rows), output, **LIMITS)

    assert (summary.tally.clips, summary.tally.failed) == (17, 3)
    assert ids_and_takes(output) == [(r["id"], 0) for i, r in enumerate(rows) if i not in HARMS]
    letters = ledger.read_dead_letters(open_storage(output)).to_pylist()
    assert {row["id"]: row["error_class"] for row in letters} == {
        rows[at]["id"]: WORDS[harm][0] for at, harm in HARMS.items()
    }
    assert problems(output) == []
