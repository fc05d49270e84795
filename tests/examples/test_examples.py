"""Every example runs, and makes what it says."""

import runpy
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import soundfile as sf

ROOT = Path(__file__).parents[2]
TESTED = {"run_job", "plan_job", "local_run", "ray_data_processor", "musicgen_api"}


def example(name: str) -> dict[str, Any]:
    """What an example defines, run from the repository's root."""
    return runpy.run_path(str(ROOT / "examples" / f"{name}.py"))


def test_every_example_is_tested() -> None:
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} == TESTED


@pytest.mark.long
@pytest.mark.usefixtures("ray_cluster")
def test_run_job_makes_a_dataset_and_its_report(tmp_path: Path) -> None:
    summary = example("run_job")["main"](str(tmp_path))

    assert (summary.clips, summary.failed, summary.exit_code) == (6, 0, 0)
    assert pq.read_table(tmp_path / "music" / "clips").num_rows == 6
    assert summary.report_uri == f"file://{tmp_path}/music/report.html"
    assert (tmp_path / "music" / "report.html").read_text().count("<audio") >= 6


def test_plan_job_counts_what_a_run_would_make_and_refuse() -> None:
    planned = example("plan_job")["main"]()

    assert (planned.plan.pending, planned.plan.pending_audio_s) == (3, 15.0)
    (letter,) = planned.plan.letters
    assert "nowhere.flac" in letter.message
    assert planned.estimate.speed is not None
    assert planned.estimate.speed.run_id is None  # assumed: the output has no run yet
    assert planned.estimated_s


def test_local_run_makes_a_dataset_without_ray(tmp_path: Path) -> None:
    summary = example("local_run")["main"](str(tmp_path))

    assert (summary.clips, summary.exit_code) == (2, 0)
    assert summary.startup_s > 0


@pytest.mark.long
@pytest.mark.usefixtures("ray_cluster")
def test_ray_data_processor_adds_audio_and_errors() -> None:
    rows = {row["subject"]: row for row in example("ray_data_processor")["main"]()}

    assert rows["rain"]["flac"].startswith(b"fLaC")
    assert rows["sun"]["error"] is None
    assert rows["too long to be made"]["flac"] is None
    assert "exceeds 3600 s" in rows["too long to be made"]["error"]


def test_musicgen_api_writes_files(tmp_path: Path) -> None:
    paths = example("musicgen_api")["main"](str(tmp_path))

    assert [sf.info(path).duration for path in paths] == [2.0, 2.0, 3.0]
