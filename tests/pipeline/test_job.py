"""What a run tells of itself holds: counts, exit codes, and words for what is lost. No Ray."""

from __future__ import annotations

import logging
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pipeline import job, ledger
from pipeline.cli.root import main
from pipeline.config_file import load_config
from pipeline.ledger.lease import OutputGoneError
from pipeline.ledger.parts import publish_part
from pipeline.storage import open_storage
from tests.integration.jobs import TINY, ids_and_takes, problems, run_here, write_manifest
from tests.reliability.outcomes import Outcome, fault

RUN = "20260101T000000-abcdef"

pytestmark = pytest.mark.slow


def rows(n: int, **more: object) -> list[dict[str, object]]:
    return [{"id": f"r{i:02d}", "prompt": f"song {i}", "duration_s": 0.1, **more} for i in range(n)]


@fault("writers/run-id", "a run gets the `--run-id` of an earlier one", "SIGTERM; again")
def test_a_run_with_the_name_of_another_counts_only_its_own_clips(
    tmp_path: Path, outcome: Outcome
) -> None:
    """Drained before it made anything, it has five rows left, whatever the first one made."""
    output = f"file://{tmp_path}/out"
    manifest = write_manifest(tmp_path / "m.parquet", rows(6))
    assert run_here(manifest, output, run_id=RUN).clips == 6
    write_manifest(manifest, rows(11))

    def stop_after_the_scan(said: str) -> None:
        if said.startswith("11 rows"):
            os.kill(os.getpid(), signal.SIGTERM)

    flags = {"manifest": str(manifest), "output": output, "run_id": RUN, "runtime": "local"}
    drained = job.run(load_config(None, TINY | flags), say=stop_after_the_scan)

    assert (drained.clips, drained.left, drained.exit_code) == (0, 5, 5)
    again = run_here(manifest, output, run_id=RUN)
    assert (again.clips, again.left, again.exit_code) == (5, 0, 0)
    assert len(ids_and_takes(output)) == 11
    assert problems(output) == []
    outcome.ended(output, [f"r{i:02d}" for i in range(11)], exits=[0, 5, 0])


@fault("disk/no-records", "the record and the report can't be written", "the whole run")
def test_a_run_whose_parts_stand_ends_well_though_nothing_else_could_be_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, outcome: Outcome
) -> None:
    output = f"file://{tmp_path}/out"
    manifest = write_manifest(tmp_path / "m.parquet", rows(2))
    run_here(manifest, output)
    shutil.rmtree(tmp_path / "out/runs")
    (tmp_path / "out/runs").write_text("a file where a folder is needed")
    (tmp_path / "out/report.html").unlink()
    (tmp_path / "out/report.html").mkdir()
    write_manifest(manifest, rows(5))

    with caplog.at_level(logging.WARNING, logger="pipeline"):
        summary = run_here(manifest, output)

    assert (summary.clips, summary.exit_code) == (3, 0)
    assert len(ids_and_takes(output)) == 5
    said = [record.getMessage() for record in caplog.records]
    assert any("the record of the run could not be written" in text for text in said)
    assert any("report.html is not written, `musicgen-batch report` writes it" in t for t in said)
    outcome.told("the record of the run could not be written", "\n".join(said))
    (tmp_path / "out/runs").unlink()
    outcome.ended(output, [f"r{i:02d}" for i in range(5)], exits=[0, 0])


def test_an_output_that_is_deleted_ends_the_run_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    manifest = write_manifest(tmp_path / "m.parquet", rows(40))
    deleted = False

    def publish_and_lose(*arguments: Any, **named: Any) -> str:
        nonlocal deleted
        path = publish_part(*arguments, **named)
        while not deleted and output.exists():
            shutil.rmtree(output, ignore_errors=True)
        deleted = True
        return path

    monkeypatch.setattr("pipeline.ledger.reader.publish_part", publish_and_lose)
    with pytest.raises(OutputGoneError, match=r"was deleted, or moved away.*run the same command"):
        run_here(manifest, f"file://{output}", part_clips=2)
    assert not (output / "clips").exists()
    assert not (output / "runs").exists()


def test_a_damaged_output_is_repaired_and_made_whole_by_the_next_run(tmp_path: Path) -> None:
    """As a user would: verify --repair, then the same command."""
    output = f"file://{tmp_path}/out"
    manifest = write_manifest(tmp_path / "m.parquet", rows(6))
    run_here(manifest, output)
    storage = open_storage(output)
    clips = {row["id"]: row for row in ledger.read_clips(storage).to_pylist()}
    storage.put(clips["r01"]["audio_path"], b"damaged")
    storage.delete([clips["r04"]["audio_path"]])

    refused = CliRunner().invoke(main, ["verify", "--output", output])
    repaired = CliRunner().invoke(main, ["verify", "--output", output, "--repair"])
    assert (refused.exit_code, repaired.exit_code) == (1, 0), repaired.output
    assert "2 clips taken out" in repaired.output
    assert [name for name, _ in ids_and_takes(output)] == ["r00", "r02", "r03", "r05"]

    summary = run_here(manifest, output)
    assert (summary.plan.pending, summary.clips) == (2, 2)
    assert problems(output) == []
    made = {row["id"]: row["audio_sha256"] for row in ledger.read_clips(storage).to_pylist()}
    assert made == {name: row["audio_sha256"] for name, row in clips.items()}


def test_a_second_manifest_may_bring_a_new_column(tmp_path: Path) -> None:
    output = f"file://{tmp_path}/out"
    first = write_manifest(tmp_path / "monday.parquet", rows(2, genre="jazz"))
    run_here(first, output)
    second = [{**row, "id": f"t{i}", "mood": "calm"} for i, row in enumerate(rows(2))]
    said: list[str] = []
    tuesday = write_manifest(tmp_path / "tuesday.parquet", second)
    run_here(tuesday, output, say=said.append)
    assert said[0].startswith("new column mood: null in the clips that stand")
    assert "musicgen-batch compact" in said[0]
    run_here(tuesday, output, say=said.append)
    assert len([text for text in said if "new column" in text]) == 1

    table = ledger.read_clips(open_storage(output), ["id", "genre", "mood"]).sort_by("id")
    assert table.to_pylist() == [
        {"id": "r00", "genre": "jazz", "mood": None},
        {"id": "r01", "genre": "jazz", "mood": None},
        {"id": "t0", "genre": None, "mood": "calm"},
        {"id": "t1", "genre": None, "mood": "calm"},
    ]
    done = CliRunner().invoke(main, ["compact", "--output", output])
    assert done.exit_code == 0, done.output
    assert len(ledger.list_parts(open_storage(output))) == 1
