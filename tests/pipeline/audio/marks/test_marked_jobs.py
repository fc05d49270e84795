"""Whole jobs whose clips are marked, on the bundled model."""

import io
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import c2pa
import pytest
from click.testing import CliRunner

from pipeline import ledger
from pipeline.audio.encode import MEDIA_TYPES
from pipeline.audio.marks.counts import count_marks
from pipeline.audio.marks.credentials import CERTIFICATE, KEY, read_credentials
from pipeline.audio.marks.signing import ClipSigner
from pipeline.audio.marks.trial_pair import TrialPair
from pipeline.cli.root import main
from pipeline.ledger.verify import verify
from pipeline.replica import finisher
from pipeline.storage import open_storage
from tests.integration.jobs import clips, run_here, write_manifest
from tests.pipeline.audio.marks.audioseal_stand_in import Generator, install
from tests.s3 import S3Server

pytestmark = pytest.mark.slow


def manifest(folder: Path, n_rows: int) -> Path:
    rows = [
        {"id": f"r{i}", "prompt": f"a secret song {i}", "duration_s": 0.2} for i in range(n_rows)
    ]
    return write_manifest(folder / f"{n_rows}.parquet", rows)


def by_id(output: str) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in clips(output)}


@pytest.mark.s3
def test_clips_of_a_job_on_s3_are_proven_by_the_librarys_own_reader(
    s3: S3Server, tmp_path: Path, with_pair: TrialPair
) -> None:
    output = s3.bucket() + "/music"

    run_here(manifest(tmp_path, 2), output, c2pa="require", audio_format="mp3")

    storage = open_storage(output)
    for row in clips(output):
        assert (row["c2pa"], row["watermark"]) == ("embedded", None)
        data = storage.get(row["audio_path"])
        context = c2pa.Context.from_dict({"trust": {"trust_anchors": with_pair.chain.decode()}})
        reader = c2pa.Reader(MEDIA_TYPES["mp3"], io.BytesIO(data), None, context)
        assert reader.get_validation_state() == "Trusted"
        assert row["clip_id"] in reader.json()
        assert row["prompt"] not in reader.json()
    assert verify(storage).problems == ()


def test_a_run_that_goes_on_with_keys_leaves_the_music_and_the_ids_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pair: TrialPair
) -> None:
    for name in (KEY, CERTIFICATE):
        monkeypatch.delenv(name, raising=False)
    said: list[str] = []
    mixed, signed = f"{tmp_path}/mixed", f"{tmp_path}/signed"
    run_here(manifest(tmp_path, 1), mixed, say=said.append)
    assert by_id(mixed)["r0"]["c2pa"] is None
    assert not [line for line in said if "sign" in line]

    monkeypatch.setenv(KEY, pair.key.decode())
    monkeypatch.setenv(CERTIFICATE, pair.chain.decode())
    resumed = run_here(manifest(tmp_path, 2), mixed, say=said.append)
    run_here(manifest(tmp_path, 2), signed)

    assert resumed.clips == 1
    assert [
        line for line in said if line.startswith("clips are signed (C2PA) with the certificate")
    ]
    before, after = by_id(mixed), by_id(signed)
    assert {name: row["clip_id"] for name, row in before.items()} == {
        name: row["clip_id"] for name, row in after.items()
    }
    assert before["r0"]["audio_sha256"] == after["r0"]["unsigned_sha256"]
    assert before["r1"]["unsigned_sha256"] == after["r1"]["unsigned_sha256"]
    assert before["r1"]["audio_sha256"] != after["r1"]["audio_sha256"]  # salts are random
    words = count_marks(ledger.read_clips(open_storage(mixed))).text
    assert words.startswith("signed C2PA manifest: 1 of 2 clips (1 inside the file);")

    found = CliRunner().invoke(main, ["verify", "--output", mixed, "--json"])
    facts = json.loads(found.stdout)["marks"]
    assert facts["claimed"] == {
        "clips": 2, "c2pa_embedded": 1, "c2pa_sidecar": 0, "watermarked": 0
    }  # fmt: skip
    assert facts["signatures"] == {
        "trusted": 1, "valid": 0, "expired": 0, "invalid": 0, "unchecked": 0
    }  # fmt: skip
    shown = CliRunner().invoke(main, ["verify", "--output", mixed])
    assert "signatures that hold, by the given certificate: 1" in shown.stdout


def test_a_certificate_that_expires_during_a_run_ends_it_and_blames_no_row(
    tmp_path: Path, with_pair: TrialPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = read_credentials()
    assert found is not None
    old = replace(found.certificate, ends=datetime(2025, 1, 1, tzinfo=UTC))
    signer = ClipSigner(replace(found, certificate=old))
    monkeypatch.setattr(finisher, "open_named_signer", lambda *_: signer)
    output = f"{tmp_path}/out"

    with pytest.raises(Exception, match="expired at 2025-01-01 00:00 UTC"):
        run_here(manifest(tmp_path, 2), output)

    storage = open_storage(output)
    assert (len(ledger.read_clips(storage)), len(ledger.read_dead_letters(storage))) == (0, 0)


def test_a_watermark_is_in_the_samples_the_row_and_the_identity(
    tmp_path: Path, with_pair: TrialPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = Generator()
    install(monkeypatch, generator)
    output = f"{tmp_path}/out"
    run_here(manifest(tmp_path, 1), output, c2pa="off")
    marked = {"watermark": "audioseal", "watermark_strength": 0.5, "watermark_message": 9}

    first = run_here(manifest(tmp_path, 1), output, **marked)
    again = run_here(manifest(tmp_path, 1), output, **marked)

    assert (first.clips, again.clips) == (1, 0)
    plain, row = sorted(clips(output), key=lambda each: each["watermark"] or "")
    assert plain["clip_id"] != row["clip_id"]
    assert plain["row_key"] != row["row_key"]
    assert row["watermark"].startswith("audioseal_wm_16bits (audioseal ")
    assert (row["watermark_strength"], row["c2pa"]) == (0.5, "embedded")
    assert plain["watermark"] is plain["watermark_strength"] is None
    assert row["audio_sha256"] != plain["audio_sha256"] != row["unsigned_sha256"]
    data = open_storage(output).get(row["audio_path"])
    assert row["watermark"] in c2pa.Reader("audio/flac", io.BytesIO(data)).json()
    report = verify(open_storage(output))
    assert (report.problems, report.marks.claimed.watermarked) == ((), 1)
    assert report.n_superseded == 1


def test_a_pair_of_the_command_signs_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = CliRunner().invoke(main, ["marks", "test-certificate", "--out", f"{tmp_path}/keys"])
    assert made.exit_code == 0, made.output
    for line in made.stdout.splitlines():
        name, _, path = line.removeprefix("export ").partition("=")
        monkeypatch.setenv(name, path)
    output = f"{tmp_path}/out"
    flags = ["--output", output, "--model", "tiny", "--c2pa", "require", "--audio-format", "wav"]

    ran = CliRunner().invoke(
        main, ["run", "--local", "--manifest", str(manifest(tmp_path, 1)), *flags]
    )

    assert ran.exit_code == 0, ran.output
    assert "self-signed" in ran.output
    assert [row["c2pa"] for row in clips(output)] == ["embedded"]
    again = CliRunner().invoke(main, ["marks", "test-certificate", "--out", f"{tmp_path}/keys"])
    assert again.exit_code == 2
    assert "a key is never overwritten" in again.output
