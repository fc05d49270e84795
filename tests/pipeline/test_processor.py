"""A stage of a Ray Data pipeline makes the clips of a job, and errors instead of exceptions."""

import hashlib
import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import soundfile as sf

from pipeline import build_processor
from pipeline.config import ConfigError
from tests.integration.jobs import EXAMPLES, TINY, clips, run_here, write_manifest
from tests.integration.test_dataset import mixed_rows

SETTINGS = {"model": "tiny", "slots": 2, "block_rows": 4}


def made(rows: list[dict[str, Any]], **settings: Any) -> list[dict[str, Any]]:
    """The result of a dataset that has these rows."""
    import ray

    columns = {name: [row.get(name) for row in rows] for name in {n: 0 for r in rows for n in r}}
    processor = build_processor(SETTINGS | settings)
    result: list[dict[str, Any]] = processor(ray.data.from_arrow(pa.table(columns))).take_all()
    return result


@pytest.mark.usefixtures("ray_cluster")
def test_a_processors_clips_are_those_of_a_job(tmp_path: Path) -> None:
    """Also where the same clip is asked for twice in one block and in two."""
    rows = mixed_rows(str(EXAMPLES / "audio"))
    output = f"file://{tmp_path}/out"
    run_here(write_manifest(tmp_path / "m.parquet", rows), output, **TINY)
    same = [{"prompt": "the same tune", "duration_s": 0.2, "n": i} for i in range(9)]

    found = made(rows + same)

    repeated = [row for row in found if row["n"] is not None]
    assert sorted(row["n"] for row in repeated) == [*range(9)]
    assert len({row["audio"]["bytes"] for row in repeated}) == 1
    found = [row for row in found if row["n"] is None]
    clips_of_job = {(row["id"], row["take"]): row for row in clips(output)}
    good = {(row["id"], row["take"]): row for row in found if row["error"] is None}
    assert good.keys() == clips_of_job.keys()
    for key, row in good.items():
        of_job = clips_of_job[key]
        for column in ("clip_id", "audio_sha256", "n_samples", "loudness_lufs", "genre", "prompt"):
            assert row[column] == of_job[column], (key, column)
        assert hashlib.sha256(row["audio"]["bytes"]).hexdigest() == row["audio_sha256"]
        assert sf.info(io.BytesIO(row["audio"]["bytes"])).frames == row["n_samples"]
    bad = {row["id"]: row for row in found if row["error"] is not None}
    assert bad.keys() == {"gone", "too-long"}
    assert "gone.flac" in bad["gone"]["error"]
    assert bad["gone"]["error_class"] == "ReferenceNotFoundError"
    assert bad["gone"]["prompt"] == "x"
    assert bad["too-long"]["audio"] is None
    assert "exceeds 3600 s" in bad["too-long"]["error"]


@pytest.mark.long
@pytest.mark.usefixtures("ray_cluster")
def test_rows_that_repeat_or_fail_while_they_are_made_all_come_back() -> None:
    """Quality control that no clip passes; two of the rows are the same clip."""
    rows = [{"prompt": "the same tune", "duration_s": 0.2, "n": i} for i in range(2)]
    rows.append({"prompt": "another", "duration_s": 0.2, "n": 2})

    failed = made(rows, qc={"min_rms_dbfs": 0.0})

    assert sorted(row["n"] for row in failed) == [0, 1, 2]
    assert [row["error_class"] for row in failed] == ["QualityError"] * 3
    assert all("rms_dbfs" in row["error"] for row in failed)


def test_settings_and_columns_are_checked_before_anything_is_made() -> None:
    from pipeline.processor import PromptPreparer

    with pytest.raises(ConfigError, match="no setting is named slotz; did you mean slots"):
        build_processor(SETTINGS | {"slotz": 3})
    processor = build_processor(SETTINGS)
    prepare = PromptPreparer(processor.config, processor.info, ".")
    for column, words in (("promt", "looks like 'prompt'"), ("clip_id", "also a column of")):
        table = pa.table({"prompt": ["x"], column: ["y"]})
        with pytest.raises(ConfigError, match=words):
            list(prepare(table))
