"""Copies of a dataset in another store."""

import json
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pipeline.cli.root import main
from pipeline.dataset.contents import PublishError
from pipeline.dataset.to_store import publish_to_store
from pipeline.ledger.clip_row import ScoreRow
from pipeline.ledger.lease import Lease
from pipeline.ledger.maintain import compact
from pipeline.ledger.names import CARD, METADATA
from pipeline.ledger.scores import write_score_part
from pipeline.ledger.verify import verify
from pipeline.storage import Storage, open_storage
from tests.pipeline.dataset.outputs import LAYOUTS, RUN, add_clips, add_letter, keep, make_output
from tests.s3 import S3Server


def paths(storage: Storage) -> set[str]:
    return {info.path for info in storage.list(hidden=True)}


@pytest.mark.parametrize("mode", LAYOUTS)
def test_a_copy_has_what_the_ledger_explains_and_nothing_else(tmp_path: Path, mode: str) -> None:
    storage = make_output(tmp_path / "music", mode)  # type: ignore[arg-type]
    explained = paths(storage) - {path for path in paths(storage) if path.startswith("lease/")}
    storage.put(f"runs/{RUN}.json", b"{}")
    storage.put("report.html", b"<html>")
    for other in (
        "notes.txt", "audio/00/orphan.flac", f"attempts/{RUN}/abcdef.json", "cache/plan/x.plan",
        ".README.md.0123456789ab.tmp", "clips/part-by-hand.parquet", "runs/notes.md",
    ):  # fmt: skip
        storage.put(other, b"x")
    target = open_storage(str(tmp_path / "copy"))
    done = publish_to_store(storage, target, print)
    assert paths(target) == explained | {f"runs/{RUN}.json", "report.html"}
    assert all(target.get(path) == storage.get(path) for path in paths(target))
    assert verify(target).ok
    assert done.sent_files == done.files
    again = publish_to_store(storage, target, print)
    assert (again.sent_files, again.sent_bytes, again.removed) == (0, 0, ())


def test_sidecars_and_scores_are_copied_too(tmp_path: Path) -> None:
    storage, target = (open_storage(str(tmp_path / name)) for name in ("music", "copy"))
    add_clips(storage, range(3), sidecar=b"signed", c2pa="sidecar")
    told: dict[str, Any] = {field.name: "x" for field in fields(ScoreRow)}
    own = {"take": 0, "seed_used": 1, "score": 0.5, "kept": True, "created_at": datetime.now(UTC)}
    score = ScoreRow(**told | own)
    part = write_score_part(storage, [score], RUN, "aaaaaa", 0)
    keep(storage)

    publish_to_store(storage, target, print)

    sidecars = {path for path in paths(storage) if path.endswith(".c2pa")}
    assert len(sidecars) == 3
    assert {*sidecars, part} <= paths(target)
    assert publish_to_store(storage, target, print).removed == ()
    lost = min(sidecars)
    storage.delete([lost])
    with pytest.raises(PublishError, match=rf"{lost} is missing"):
        publish_to_store(storage, open_storage(str(tmp_path / "other")), print)


def test_what_was_stopped_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    storage = make_output(tmp_path / "music")
    target = open_storage(str(tmp_path / "copy"))

    class StoppedError(RuntimeError):
        pass

    class Stops(Storage):
        left = 7

        def put(self, path: str, data: bytes, *, sync: bool = True) -> None:
            if path.startswith("clips/"):
                raise StoppedError
            super().put(path, data, sync=sync)

    stops = Stops(target.root, {}, target.retry)
    with pytest.raises(StoppedError):
        publish_to_store(storage, stops, print)
    there = paths(target)
    assert CARD not in there  # the card comes last
    assert len([path for path in there if path.startswith("audio/")]) == 10
    done = publish_to_store(storage, target, print)
    assert done.sent_files == done.files - len(there)
    assert verify(target).n_clips == 10


def test_an_object_of_another_size_is_copied_again(tmp_path: Path) -> None:
    storage = make_output(tmp_path / "music")
    target = open_storage(str(tmp_path / "copy"))
    publish_to_store(storage, target, print)
    victim = min(path for path in paths(target) if path.startswith("audio/"))
    target.put(victim, b"torn")
    assert publish_to_store(storage, target, print).sent_files == 1
    assert verify(target).ok


def test_a_copy_follows_compaction_and_growth(tmp_path: Path) -> None:
    storage = make_output(tmp_path / "music")
    target = open_storage(str(tmp_path / "copy"))
    publish_to_store(storage, target, print)
    add_clips(storage, range(10, 12), replica="cccccc")
    add_letter(storage, 1)
    with Lease.acquire(storage) as lease:
        compact(storage, lease)
    keep(storage)
    dry = publish_to_store(storage, target, print, dry_run=True)
    assert verify(target).n_clips == 10
    done = publish_to_store(storage, target, print)
    assert dry.removed == done.removed
    assert len(done.removed) == 4  # three parts of clips, one of dead letters
    report = verify(target)
    assert (report.ok, report.n_clips, report.n_parts) == (True, 12, 1)
    assert b"12 clips" in target.get(CARD)


def test_it_refuses_places_that_are_not_a_copy_of_it(tmp_path: Path) -> None:
    storage = make_output(tmp_path / "music")
    with pytest.raises(PublishError, match="inside the other"):
        publish_to_store(storage, open_storage(str(tmp_path / "music/copy")), print)
    with pytest.raises(PublishError, match="is an output that runs have written to"):
        publish_to_store(storage, make_output(tmp_path / "other"), print)
    copy = open_storage(str(tmp_path / "copy"))
    publish_to_store(make_output(tmp_path / "third", replica="dddddd"), copy, print)
    before = paths(copy)
    with pytest.raises(PublishError, match="of another dataset"):
        publish_to_store(storage, copy, print)
    assert paths(copy) == before


def test_damaged_audio_is_named_and_not_copied(tmp_path: Path) -> None:
    storage = make_output(tmp_path / "music")
    victim = min(path for path in paths(storage) if path.startswith("audio/"))
    data = bytearray(storage.get(victim))
    data[0] ^= 1
    storage.put(victim, bytes(data))
    with pytest.raises(PublishError, match=r"not what was committed.*verify"):
        publish_to_store(storage, open_storage(str(tmp_path / "copy")), print)
    assert not (tmp_path / "copy" / victim).exists()


def test_a_stale_metadata_file_is_made_anew_for_the_copy(tmp_path: Path) -> None:
    storage = make_output(tmp_path / "music")
    add_clips(storage, range(10, 14), replica="cccccc")  # and no run has ended since
    target = open_storage(str(tmp_path / "copy"))
    publish_to_store(storage, target, print)
    import pyarrow.parquet as pq

    assert pq.read_table(tmp_path / "copy" / METADATA).num_rows == 14
    assert pq.read_table(tmp_path / "music" / METADATA).num_rows == 10


def test_the_command_says_what_it_did(tmp_path: Path) -> None:
    make_output(tmp_path / "music")
    args = ["publish", "--output", str(tmp_path / "music"), "--to", str(tmp_path / "copy")]
    dry = CliRunner().invoke(main, [*args, "--dry-run", "--json"])
    assert dry.exit_code == 0, dry.output
    assert json.loads(dry.stdout)["dry_run"] is True
    assert not (tmp_path / "copy").exists()
    done = CliRunner().invoke(main, args)
    assert done.exit_code == 0, done.output
    assert "sent 17 of 17 files" in done.stdout
    public = CliRunner().invoke(main, [*args, "--public"])
    assert public.exit_code == 2
    assert "--public is for the hub" in public.output


@pytest.mark.slow
@pytest.mark.s3
def test_to_an_object_store(s3: S3Server, tmp_path: Path) -> None:
    storage = make_output(tmp_path / "music")
    target = open_storage(f"{s3.bucket()}/copy")
    publish_to_store(storage, target, print)
    assert verify(target).ok
    assert publish_to_store(storage, target, print).sent_files == 0
    back = open_storage(str(tmp_path / "back"))
    publish_to_store(target, back, print)
    assert verify(back).n_clips == 10
