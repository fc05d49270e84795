"""Credentials are used and never written down: in no output, record, report, log or message."""

import io
import logging
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import soundfile as sf
from click.testing import CliRunner

from pipeline import ledger
from pipeline.cli.root import main
from pipeline.ledger.lease import Lease
from pipeline.storage import open_storage
from tests.integration.jobs import write_manifest
from tests.s3 import ACCESS_KEY, SECRET_KEY, S3Server

PASSWORD = "hunter2-hunter2"
SIGNATURE = "5f3c9a77e1d0"


@pytest.mark.s3
@pytest.mark.usefixtures("ray_cluster")
def test_a_job_on_s3_writes_no_secret_anywhere(
    s3: S3Server, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: Any
) -> None:
    """The keys work (the store wants them), a row's reference carries a password and a signature,
    a broken reference fails with its URI in the message; then every byte is searched."""
    import ray

    caplog.set_level(logging.DEBUG, logger="pipeline")
    output = s3.bucket() + "/music"
    silent = f"{output.removesuffix('/music')}/refs/none.wav"
    host = s3.endpoint.removeprefix("http://")
    signed = f"http://me:{PASSWORD}@{host}/refs/song.wav?X-Amz-Signature={SIGNATURE}&x=1"
    rows = [
        {"id": "plain", "prompt": "a song", "duration_s": 0.1},
        {"id": "signed", "prompt": "a song", "duration_s": 0.1, "melody_uri": signed},
        {"id": "missing", "prompt": "a song", "duration_s": 0.1, "melody_uri": silent},
    ]
    manifest = write_manifest(tmp_path / "rows.parquet", rows)

    result = CliRunner().invoke(
        main,
        ["run", "--manifest", str(manifest), "--output", output, "--model", "tiny", "--slots", "1",
         "--verbose", "--interval-s", "1"],
    )  # fmt: skip
    status = CliRunner().invoke(main, ["status", "--output", output, "--json"])

    assert result.exit_code == 3, result.output
    storage = open_storage(output)
    written = {info.path: storage.get(info.path) for info in storage.list(hidden=True)}
    assert len(ledger.read_clips(storage)) >= 1
    # The S3 server of the test runs in this process and logs the requests that it gets.
    ours = [record.getMessage() for record in caplog.records if record.name != "werkzeug"]
    printed = result.output + status.output + "".join([*capfd.readouterr(), *ours])
    session = Path(ray._private.worker._global_node.get_session_dir_path())
    logs = {str(p): p.read_bytes() for p in (session / "logs").rglob("*") if p.is_file()}
    for secret in (SECRET_KEY, ACCESS_KEY, PASSWORD, SIGNATURE):
        assert secret not in printed
        for name, data in {**written, **logs}.items():
            assert secret.encode() not in data, f"{secret} stands in {name}"
        for name in [name for name in written if name.endswith(".parquet")]:
            assert secret not in str(pq.read_table(io.BytesIO(written[name])).to_pylist()), name
        for name in [name for name in written if name.endswith(".flac")]:
            with sf.SoundFile(io.BytesIO(written[name])) as file:
                assert secret not in file.comment
    recorded = ledger.read_dead_letters(storage).to_pylist()
    assert {row["id"] for row in recorded} >= {"missing"}


def test_the_record_of_a_run_names_a_signed_manifest_without_its_signature(tmp_path: Path) -> None:
    from pipeline.config_file import load_config
    from pipeline.planning.scan import Plan
    from pipeline.run_record import RunRecord
    from pipeline.telemetry.progress import Tally

    storage = open_storage(str(tmp_path))
    signed = f"https://host/m.parquet?X-Amz-Signature={SIGNATURE}"
    config = load_config(None, {"manifest": signed, "output": str(tmp_path), "model": "tiny"})

    with Lease.acquire(storage) as lease:
        record = RunRecord(lease, "20260101T000000-abcdef", config, {}, Plan())
        assert record.write("running", Tally(0))

    (found,) = ledger.read_runs(storage)
    assert found["config"]["run"]["manifest"] == "https://host/m.parquet?***"
