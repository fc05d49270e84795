"""Parts: when one is due, what it names, and what is left out."""

import io
import json
import tarfile
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline import ledger
from pipeline.audio.measures_table import MEASURES, AudioMeasures
from pipeline.ledger.clip_row import ClipRow, ClipScores, DeadLetterRow, Provenance, ScoreRow
from pipeline.ledger.id_set import NO_IDS, DoneSet, pack_ids, ruling_key
from pipeline.ledger.lease import LeaseLostError
from pipeline.ledger.scores import read_rulings, read_scores, takes_judged_by
from pipeline.ledger.writer import PartLimits, PartOrigin, PartWriter
from pipeline.storage import Storage, open_storage

NOBODY = DoneSet(NO_IDS, NO_IDS)
LIMITS = PartLimits(max_clips=3, max_bytes=100.0, max_age_s=60.0)
RUN = "20260101T000000-abcdef"


def row(number: int, **changes: Any) -> ClipRow:
    """A clip's row with little in it."""
    filled: dict[str, Any] = {
        field.name: 0 if field.type in ("int", "float") else None if "None" in field.type else ""
        for field in fields(ClipRow)
    }
    measures = AudioMeasures(**dict.fromkeys(MEASURES, 0.0) | {"loudness_reason": None})
    given = {
        "clip_id": f"{number:032x}",
        "row_key": f"{number:032x}",
        "id": f"r{number}",
        "n_samples": 16_000,
        "sample_rate_hz": 32_000,
        "use_sampling": True,
        "true_peak_limited": False,
        "references": {"melody": "blake2b:00"},
        "measures": measures,
        "scores": ClipScores(),
        "provenance": Provenance(
            "tiny", "0" * 32, None, "none", "fp32", "cpu", 1, 4, "slots", {"torch": "2.14"}
        ),
        "created_at": datetime.now(UTC),
    }
    return ClipRow(**filled | given | changes)


def dead_letter(number: int) -> DeadLetterRow:
    return DeadLetterRow(
        row_key=f"{number:032x}",
        clip_id=None,
        id=None,
        take=None,
        row=number,
        source="m.parquet",
        stage="manifest",
        error_class="InvalidRow",
        message="what is wrong",
        attempts=1,
        run_id=RUN,
        created_at=datetime.now(UTC),
        row_json="{}",
    )


def writer(
    storage: Storage, audio: Any = "files", limits: PartLimits = LIMITS, **changes: Any
) -> PartWriter:
    settings: dict[str, Any] = {
        "schema": ledger.clip_schema(pa.schema([]), audio),
        "origin": PartOrigin(RUN, "aaaaaa", 1),
        "audio": audio,
        "audio_format": "flac",
        "guard": lambda: None,
    }
    return PartWriter(storage, limits=limits, **(settings | changes))


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path))


def test_a_part_is_due_by_count_bytes_or_age(storage: Storage) -> None:
    by_count, by_bytes = writer(storage), writer(storage)
    by_age = writer(storage, limits=replace(LIMITS, max_age_s=0.0))
    assert by_count.due_in_s() is None

    for number in range(2):
        by_count.add_clip(row(number), b"x")
    assert 0 < (by_count.due_in_s() or 0) <= 60
    by_count.add_clip(row(2), b"x")
    by_bytes.add_clip(row(0), b"x" * 100)
    by_age.add_clip(row(0), b"x")

    assert [w.due_in_s() for w in (by_count, by_bytes, by_age)] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("audio", ["files", "parquet", "webdataset"])
def test_a_commit_names_audio_with_size_and_hash(audio: str, storage: Storage) -> None:
    parts = writer(storage, audio)
    for number in range(2):
        parts.add_clip(row(number), b"audio %d" % number)
    parts.commit(NOBODY)

    table = ledger.read_clips(storage)
    assert table["audio_bytes"].to_pylist() == [7, 7]
    for number, clip in enumerate(table.to_pylist()):
        if audio == "parquet":
            data = clip["audio"]["bytes"]
        else:
            data = storage.get(clip["audio_path"])
        if audio == "webdataset":
            with tarfile.open(fileobj=io.BytesIO(data)) as tar:
                data = tar.extractfile(clip["audio_member"]).read()
                assert json.load(tar.extractfile(tar.getnames()[1]))["id"] == "r0"
        assert data == b"audio %d" % number


def test_what_somebody_else_committed_meanwhile_is_left_out(storage: Storage) -> None:
    parts = writer(storage)
    for number in range(2):
        parts.add_clip(row(number), b"x")

    parts.commit(DoneSet(np.unique(pack_ids([f"{0:032x}"])), NO_IDS))

    assert ledger.read_clips(storage)["id"].to_pylist() == ["r1"]


def test_a_lost_lease_commits_nothing(storage: Storage) -> None:
    def guard() -> None:
        raise LeaseLostError("taken over")

    parts = writer(storage, guard=guard)
    parts.add_clip(row(0), b"x")

    with pytest.raises(LeaseLostError):
        parts.commit(NOBODY)
    assert ledger.list_parts(storage) == []


def test_audio_that_cannot_be_written_is_never_named(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage, "put_many", full_disk)
    parts = writer(storage)
    parts.add_clip(row(0), b"x")

    with pytest.raises(OSError, match="No space"):
        parts.commit(NOBODY)
    assert ledger.list_parts(storage) == []


def test_extra_columns_stand_beside_those_of_the_clip(storage: Storage) -> None:
    schema = ledger.clip_schema(pa.schema([("mood", pa.string())]), "files")
    parts = writer(storage, schema=schema)
    parts.add_clip(row(0, prompt="a song"), b"x", pa.table({"mood": ["calm"]}))
    parts.commit(NOBODY)

    (clip,) = ledger.read_clips(storage).to_pylist()
    assert (clip["prompt"], clip["mood"]) == ("a song", "calm")


def test_clips_and_dead_letters_are_counted_once_they_are_committed(storage: Storage) -> None:
    parts = writer(storage)
    parts.add_clip(row(0), b"abc")
    parts.add_dead_letter(dead_letter(1))
    assert parts.committed.clips == 0
    parts.commit(NOBODY)

    (failed,) = ledger.read_dead_letters(storage).to_pylist()
    assert (failed["row"], failed["stage"], failed["message"]) == (1, "manifest", "what is wrong")
    told = parts.committed
    assert (told.parts, told.clips, told.audio_s, told.audio_bytes) == (1, 1, 0.5, 3)
    assert told.failures == {("manifest", "InvalidRow"): 1}


def score(number: int, *, kept: bool) -> ScoreRow:
    return ScoreRow(
        clip_id=f"{number:032x}",
        row_key=f"{number:032x}",
        id="r",
        take=number,
        seed_used=number,
        scorer="melody",
        checkpoint="built in",
        digest="a" * 32,
        score=0.5,
        ruling="b" * 32,
        kept=kept,
        run_id=RUN,
        created_at=datetime.now(UTC),
    )


def test_scores_are_published_before_the_clips_that_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a run that ends in between does not judge them again."""
    storage = open_storage(f"file://{tmp_path}")
    parts = writer(storage)
    parts.add_scores([score(0, kept=True)])
    parts.add_clip(row(0), b"x")
    parts.add_scores([score(1, kept=False)], n_set_aside=1)
    assert len(parts) == 2  # takes that are set aside fill a part too
    parts.add_scores([score(2, kept=False)], n_set_aside=1)
    assert parts.due_in_s() == 0.0

    def fail(*args: Any) -> None:
        raise OSError("the disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(Storage, "put_many", fail)
        with pytest.raises(OSError, match="full"):
            parts.commit(NOBODY)
    assert ledger.list_parts(storage) == []
    kept, aside = takes_judged_by(storage, RUN)
    assert ({*kept}, {*aside}) == ({f"{0:032x}"}, {f"{1:032x}", f"{2:032x}"})
    assert read_rulings(storage).tolist() == sorted(
        [
            ruling_key(f"{0:032x}", "b" * 32, True),
            *(ruling_key(f"{number:032x}", "b" * 32, False) for number in (1, 2)),
        ]
    )


def test_scores_alone_are_a_commit(tmp_path: Path) -> None:
    """Of takes that were made again to be judged, where the best of them stands."""
    storage = open_storage(f"file://{tmp_path}")
    parts = writer(storage)
    parts.add_scores([score(0, kept=True)], n_set_aside=1)
    assert parts.commit(NOBODY) == []
    assert read_scores(storage)["clip_id"].to_pylist() == [f"{0:032x}"]
    assert len(parts) == 0
