"""The threads of a replica, without Ray."""

import json
import logging
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from manifests.audio_file import decode_reference
from manifests.identity import retake_seed
from pipeline import ledger
from pipeline.audio.encode import read_comment
from pipeline.replica.postprocess import Postprocessor
from pipeline.replica.worker import ReplicaWorker
from pipeline.telemetry.metrics import METRICS
from tests.pipeline.replica.workers import SEEDED, make, start


@pytest.fixture
def replica(tmp_path: Path) -> Any:
    """ReplicaWorker on the bundled model, and the prepared rows of six clips."""
    started = start(tmp_path)
    yield started
    started[0].close()


def test_the_same_task_twice_at_once_makes_each_clip_once(replica: Any) -> None:
    """Ray may send a task again while its first attempt is still at work."""
    worker, rows, storage, _ = replica

    first, second = worker.accept(rows), worker.accept(rows)
    for call in (first, second):
        call.done.result(timeout=60)

    assert sorted(ledger.read_clips(storage)["id"].to_pylist()) == [f"r{i}" for i in range(6)]
    assert [len(call.statuses) for call in (first, second)] == [6, 6]
    third = worker.accept(rows)
    third.done.result(timeout=60)
    assert {status.status for status in third.statuses} == {"known"}


def break_the_codec_once(worker: ReplicaWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first clip to be decoded fails, the others do not."""
    decode, broken = worker.model.decode, iter([True])

    def fail_once(codes: Any, _: int | None) -> Any:
        if next(broken, False):
            raise RuntimeError("the codec broke")
        return decode(codes)

    monkeypatch.setattr(worker.model, "decode", fail_once)


def test_a_clip_whose_codec_fails_is_a_dead_letter(
    replica: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, rows, storage, _ = replica
    break_the_codec_once(worker, monkeypatch)
    worker.accept(rows).done.result(timeout=60)

    (letter,) = ledger.read_dead_letters(storage).to_pylist()
    assert (letter["stage"], letter["error_class"]) == ("encode", "RuntimeError")
    assert json.loads(letter["row_json"])["id"] == letter["id"]
    assert len(ledger.read_clips(storage)) == 5


def test_after_the_lease_is_gone_nothing_is_committed(replica: Any) -> None:
    worker, rows, storage, lease = replica
    lease.release()

    with pytest.raises(RuntimeError, match="has ended and given the lease of"):
        worker.accept(rows).done.result(timeout=60)

    assert ledger.list_parts(storage) == []


def test_clips_are_encoded_side_by_side_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish, at_once, most = Postprocessor.finish, Counter[str](), []

    def slow(self: Any, *args: Any) -> Any:
        at_once["clips"] += 1
        most.append(at_once["clips"])
        time.sleep(1.0)  # so that clips queue up, on a busy machine too
        clip = finish(self, *args)
        at_once["clips"] -= 1
        return clip

    one_by_one, _, _ = make(tmp_path / "one", SEEDED, encode_threads=1)
    monkeypatch.setattr(Postprocessor, "finish", slow)
    together, _, _ = make(tmp_path / "three", SEEDED, encode_threads=3)

    assert 2 <= max(most) <= 3
    assert {id: clip["audio_sha256"] for id, clip in together.items()} == {
        id: clip["audio_sha256"] for id, clip in one_by_one.items()
    }


# --- quality checks


def test_a_clip_that_fails_is_made_again_with_the_next_seed(tmp_path: Path) -> None:
    """What re-take r gives is known from a row that has its seed; the limit lies between them."""
    tries = [
        {**row, "id": f"{row['id']} re {r}", "seed": retake_seed(row["seed"], r)}
        for row in SEEDED
        for r in range(3)
    ]
    known, _, _ = make(tmp_path / "known", tries)
    made = {id: clip["rms_dbfs"] - clip["gain_db"] for id, clip in known.items()}
    levels = {row["id"]: [made[f"{row['id']} re {r}"] for r in range(3)] for row in SEEDED}
    limit = sorted(max(three) for three in levels.values())[1]  # one row never reaches it
    expected = {
        id: next((r for r, level in enumerate(three) if level >= limit), None)
        for id, three in levels.items()
    }
    assert None in expected.values()
    assert {1, 2} & set(expected.values())  # some pass late

    limits = {"qc": {"min_rms_dbfs": limit}, "max_retakes": 2}
    clips, letters, storage = make(tmp_path / "again", SEEDED, **limits)

    assert {id: clips[id]["retake"] for id in clips} == {
        id: r for id, r in expected.items() if r is not None
    }
    for id, clip in clips.items():
        same = known[f"{id} re {clip['retake']}"]
        assert (clip["seed_used"], clip["rms_dbfs"]) == (same["seed_used"], same["rms_dbfs"])
        assert clip["seed"] == int(id[1:])
        assert clip["qc_failed"] is None
        assert provenance(storage, clip)["seed_used"] == same["seed_used"]
    assert sorted(letters) == sorted(id for id, r in expected.items() if r is None)
    for id, letter in letters.items():
        assert (letter["stage"], letter["error_class"]) == ("qc", "QualityError")
        assert f"failed QC in 3 tries: rms_dbfs {levels[id][2]:.4g}" in letter["message"]
        assert "raise --max-retakes (now 2)" in letter["message"]
    repeated, _, _ = make(tmp_path / "repeated", SEEDED, **limits)
    assert [repeated[id]["audio_sha256"] for id in clips] == [
        clip["audio_sha256"] for clip in clips.values()
    ]


def test_what_always_fails_ends_as_dead_letters_or_is_kept(tmp_path: Path) -> None:
    limits = {"min_rms_dbfs": -1.0}

    rows = [*SEEDED, SEEDED[0] | {"id": "greedy", "use_sampling": False}]
    clips, letters, _ = make(tmp_path / "fail", rows, qc=limits, max_retakes=1)
    assert (len(clips), len(letters)) == (0, 5)
    assert "failed QC in 2 tries: rms_dbfs" in letters["r0"]["message"]
    assert "failed QC: rms_dbfs" in letters["greedy"]["message"]  # the seed would change nothing
    assert "greedy decoding makes the same clip again" in letters["greedy"]["message"]

    clips, letters, _ = make(tmp_path / "keep", SEEDED, qc=limits, qc_action="keep", max_retakes=1)
    assert (len(clips), letters) == (4, {})
    for id, clip in clips.items():
        assert clip["retake"] == 1
        assert clip["seed_used"] == retake_seed(int(id[1:]), 1)
        made = clip["rms_dbfs"] - clip["gain_db"]  # judged before any gain
        assert clip["qc_failed"] == f"rms_dbfs {made:.4g} (qc.min_rms_dbfs -1)"


def test_a_clip_that_holds_nan_is_made_again_and_never_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, rows, storage, _ = start(tmp_path, max_retakes=1, qc_action="keep")
    decode, broken = worker.model.decode, iter([True])

    def nan_once(codes: Any, _: int | None) -> Any:
        wav = decode(codes)
        return wav * float("nan") if next(broken, False) else wav

    monkeypatch.setattr(worker.model, "decode", nan_once)
    worker.accept(rows).done.result(timeout=60)

    assert sorted(row["retake"] for row in ledger.read_clips(storage).to_pylist()) == [0] * 5 + [1]


# --- files


@pytest.mark.parametrize("fmt", ["mp3", "ogg", "opus"])
def test_a_clip_in_a_lossy_format_says_what_its_file_holds(tmp_path: Path, fmt: str) -> None:
    clips, _, storage = make(tmp_path, SEEDED[:2], audio_format=fmt, normalize="peak")

    for clip in clips.values():
        data = storage.get(clip["audio_path"])
        wav, rate_hz = decode_reference(data, "clip")
        assert clip["audio_path"].endswith(f".{fmt}")
        assert (clip["audio_format"], clip["sample_rate_hz"]) == (fmt, rate_hz)
        assert rate_hz == (48_000 if fmt == "opus" else 16_000)
        assert (clip["channels"], clip["n_samples"]) == wav.shape
        assert clip["n_samples"] == 0.2 * rate_hz
        assert (clip["normalize_applied"], clip["true_peak_limited"]) == ("peak", False)
        assert clip["peak_dbfs"] == pytest.approx(-1.0, abs=1e-4)
        told = provenance(storage, clip)
        assert (told["gain_db"], told["ai_generated"]) == (clip["gain_db"], True)
    again, _, _ = make(tmp_path / "again", SEEDED[:2], audio_format=fmt, normalize="peak")
    assert {clip["audio_sha256"] for clip in again.values()} == {
        clip["audio_sha256"] for clip in clips.values()
    }


def provenance(storage: Any, clip: dict[str, Any]) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(read_comment(storage.get(clip["audio_path"])))
    return told


def test_its_numbers_say_what_was_committed_and_what_failed(
    replica: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    worker, rows, storage, _ = replica
    break_the_codec_once(worker, monkeypatch)
    caplog.set_level("INFO")
    worker.accept(rows).done.result(timeout=60)

    numbers = {(sample.name, sample.tags): sample.value for sample in worker.samples()}
    clips = ledger.read_clips(storage)
    assert numbers[("clips", ())] == 5
    assert numbers[("audio_seconds", ())] == pytest.approx(5 * 0.2)
    assert numbers[("audio_bytes", ())] == sum(clips["audio_bytes"].to_pylist())
    assert numbers[("parts", ())] == 2
    assert numbers[("failures", (("stage", "encode"), ("error_class", "RuntimeError")))] == 1
    assert numbers[("steps", ())] >= 10
    assert numbers[("work_seconds", (("kind", "decode"),))] > 0
    assert (numbers[("slots", ())], numbers[("slots_busy", ())]) == (2, 0)
    assert (numbers[("clips_waiting", ())], numbers[("clips_uncommitted", ())]) == (0, 0)
    assert {name for name, _ in numbers} == {metric.name for metric in METRICS}
    _logs_name_run_replica_and_clip(caplog, worker)


def _logs_name_run_replica_and_clip(caplog: pytest.LogCaptureFixture, worker: Any) -> None:
    said: dict[str, list[logging.LogRecord]] = {}
    for record in caplog.records:
        said.setdefault(record.getMessage().partition(" ")[0], []).append(record)
    assert [len(said[event]) for event in ("admitted", "finished", "failed")] == [6, 5, 1]
    assert {record.levelname for record in said["failed"]} == {"WARNING"}
    for event in ("admitted", "finished", "failed", "committed"):
        for record in said[event]:
            message = record.getMessage()
            assert f" run=20260101T000000-abcdef replica={worker.name} " in message
            assert event == "committed" or re.search(r" clip_id=\w{32} id=r\d take=0", message)
    assert 'stage=encode error_class=RuntimeError message="' in said["failed"][0].getMessage()


# --- out of memory
