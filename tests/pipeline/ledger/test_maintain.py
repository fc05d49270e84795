"""Upkeep: verify tells damage from leftovers; compact and gc lose nothing, even when killed."""

from __future__ import annotations

import io
import os
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.ledger import list_parts, read_clips, read_dead_letters
from pipeline.ledger.lease import Lease, LeaseLostError
from pipeline.ledger.maintain import compact, gc
from pipeline.ledger.merge import finish_compaction
from pipeline.ledger.parts import UnreadablePartError
from pipeline.ledger.repair import repair
from pipeline.ledger.verify import verify
from pipeline.storage import Storage, open_storage
from tests.pipeline.outputs import (
    RUN,
    TORN,
    audio_of,
    clip,
    commit,
    committed_ids,
    fail,
    hex_id,
    letter,
)
from tests.reliability.outcomes import Outcome, fault


@pytest.fixture
def storage(output_root: str) -> Storage:
    return open_storage(output_root)


@pytest.fixture
def local(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path / "out"))


@pytest.fixture
def lease(storage: Storage) -> Iterator[Lease]:
    with Lease.acquire(storage) as lease:
        yield lease


def audio_name(of: str) -> str:
    """The path of a clip's audio."""
    path: str = clip(of)["audio_path"]
    return path


def ids(storage: Storage) -> list[str]:
    return sorted(read_clips(storage, ["id"])["id"].to_pylist())


# --- verify


def test_a_whole_output_is_proven_whole(storage: Storage) -> None:
    commit(storage, [clip("a"), clip("b")], 0)
    commit(storage, [clip("c")], 1)
    fail(storage, [letter("d")], 0)
    report = verify(storage)
    assert report.ok
    assert (report.n_parts, report.n_clips) == (2, 3)
    assert report.n_unreferenced == report.n_superseded == report.n_leftovers == 0


def test_every_kind_of_damage_is_found(storage: Storage) -> None:
    rows = {name: clip(name) for name in ("gone", "short", "changed", "fine")}
    commit(storage, [*rows.values()], 0)
    commit(storage, [rows["fine"]], 0, replica="bbbbbb")
    storage.put(f"clips/{TORN}", b"PAR1")
    storage.put(f"failed/{TORN}", b"")
    storage.delete([rows["gone"]["audio_path"]])
    storage.put(rows["short"]["audio_path"], b"shorter")
    flipped = bytearray(audio_of(rows["changed"]["clip_id"]))
    flipped[3] ^= 1
    storage.put(rows["changed"]["audio_path"], bytes(flipped))

    report = verify(storage)
    assert not report.ok
    assert {(problem.kind, problem.where) for problem in report.problems} == {
        ("missing", rows["gone"]["audio_path"]),
        ("wrong size", rows["short"]["audio_path"]),
        ("wrong sha256", rows["changed"]["audio_path"]),
        ("unreadable part", f"clips/{TORN}"),
        ("unreadable part", f"failed/{TORN}"),
        ("doubled", "clips"),
    }
    assert any(hex_id("fine") in str(problem) for problem in report.problems)
    shallow = {problem.kind for problem in verify(storage, deep=False).problems}
    assert shallow == {"missing", "wrong size", "unreadable part", "doubled"}


def test_leftovers_of_kills_are_no_damage(local: Storage, tmp_path: Path) -> None:
    commit(local, [clip("a-old", 1, id="a"), clip("a-new", 2, id="a"), clip("b")], 0)
    local.put(audio_name("nobody"), b"12345")
    local.put("audio/ff/song.flac", b"somebody else's")
    (tmp_path / f"out/clips/.{TORN}.0a1b2c3d4e5f.tmp").write_bytes(b"to")
    report = verify(local)
    assert report.ok
    assert (report.n_unreferenced, report.unreferenced_bytes) == (1, 5)
    assert report.n_superseded == 1
    assert report.n_leftovers == 1
    assert report.n_foreign == 1


def test_audio_inside_parquet_is_checked(storage: Storage) -> None:
    rows = [clip(name, audio_path=None) for name in ("a", "b", "c")]
    for row in rows:
        row["audio"] = {"bytes": audio_of(row["clip_id"]), "path": None}
    rows[1]["audio"] = {"bytes": b"short", "path": None}
    rows[2]["audio"] = None
    commit(storage, rows, 0, mode="parquet")
    assert [problem.kind for problem in verify(storage).problems] == ["wrong size", "missing"]


def test_audio_inside_tars_is_checked(storage: Storage) -> None:
    rows = [clip(name, audio_path="audio/shard.tar", audio_member=f"{name}.flac") for name in "ab"]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo("a.flac")
        data = audio_of(rows[0]["clip_id"])
        entry.size = len(data)
        tar.addfile(entry, io.BytesIO(data))
    commit(storage, rows, 0, mode="webdataset")
    storage.put("audio/shard.tar", buffer.getvalue())
    report = verify(storage)
    assert [problem.kind for problem in report.problems] == ["missing"]
    assert hex_id("b") in report.problems[0].detail
    assert report.n_unreferenced == 0


# --- compact


def test_compact_merges_small_parts_and_changes_no_row(storage: Storage, lease: Lease) -> None:
    for seq in range(5):
        commit(storage, [clip(f"{seq}-{i}", seq) for i in range(3)], seq)
        fail(storage, [letter(f"bad {seq}")], seq)
    before = read_clips(storage).sort_by("clip_id")

    report = compact(storage, lease, target_rows=9)
    assert (report.n_parts_before, report.n_parts_after) == (10, 3)
    assert len(storage.list("clips")) == 2
    assert len(storage.list("failed")) == 1
    assert read_clips(storage).sort_by("clip_id").equals(before)
    assert read_dead_letters(storage).num_rows == 5
    assert verify(storage).ok

    again = compact(storage, lease, target_rows=9)
    assert (again.n_parts_before, again.n_parts_after) == (3, 3)


def test_compact_drops_what_stands_twice_and_keeps_the_first(
    storage: Storage, lease: Lease
) -> None:
    commit(storage, [clip("a", 2, device="second"), clip("b")], 0, replica="aaaaaa")
    commit(storage, [clip("a", 1, device="first")], 0, replica="bbbbbb")
    report = compact(storage, lease)
    assert report.n_doubled_dropped == 1
    table = read_clips(storage, ["id", "device"]).sort_by("id")
    assert table["device"].to_pylist()[0] == "first"
    assert ids(storage) == ["a", "b"]
    assert verify(storage).ok


def test_prune_drops_superseded_clips_and_fallen_letters(storage: Storage, lease: Lease) -> None:
    fail(storage, [letter("mended", 1), letter("broken", 1)], 0)
    commit(storage, [clip("x1", 1, id="x"), clip("x1-take1", 1, id="x", take=1)], 0)
    commit(storage, [clip("x2", 5, id="x"), clip("m", 5, row="mended")], 1)
    assert compact(storage, lease).n_superseded_dropped == 0

    report = compact(storage, lease, prune=True)
    assert (report.n_superseded_dropped, report.n_letters_dropped) == (1, 1)
    clips = set(read_clips(storage, ["clip_id"])["clip_id"].to_pylist())
    assert clips == {hex_id(name) for name in ("x2", "x1-take1", "m")}
    assert read_dead_letters(storage, standing=False)["row_key"].to_pylist() == [
        hex_id("row broken")
    ]
    assert verify(storage).n_unreferenced == 1  # the audio of x1, for gc


def test_a_part_of_which_nothing_remains_disappears(storage: Storage, lease: Lease) -> None:
    commit(storage, [clip("x1", 1, id="x")], 0)
    commit(storage, [clip(f"x2-{take}", 2, id="x", take=take) for take in range(3)], 1)
    report = compact(storage, lease, prune=True, target_rows=1)
    assert (report.n_superseded_dropped, report.n_parts_after) == (1, 1)
    assert len(read_clips(storage)) == 3


@fault("data/compact-killed", "`compact` is killed", "after any of its writes; `compact` again")
@pytest.mark.parametrize("survives", range(6))
def test_compact_may_be_killed_after_any_write(
    local: Storage, monkeypatch: pytest.MonkeyPatch, survives: int, outcome: Outcome
) -> None:
    """Whatever was done before the kill, readers see every clip once, and the next one mends."""
    for seq in range(6):
        commit(local, [clip(f"{seq}-{i}", seq) for i in range(2)], seq)
    expected = ids(local)

    class Killed(BaseException):
        pass

    done = 0

    def dying(action: Callable[..., object]) -> Callable[..., object]:
        def act(*arguments: object) -> object:
            nonlocal done
            if done == survives:
                raise Killed
            done += 1
            return action(*arguments)

        return act

    with Lease.acquire(local) as lease, monkeypatch.context() as patch:
        patch.setattr(Storage, "create_once", dying(Storage.create_once))
        remove_one = dying(lambda storage, path: Storage.delete(storage, [path]))
        delete = Storage.delete

        def delete_singly(storage: Storage, paths: list[str]) -> None:
            patch.setattr(Storage, "delete", delete)
            for path in paths:
                remove_one(storage, path)
            patch.setattr(Storage, "delete", delete_singly)

        patch.setattr(Storage, "delete", delete_singly)
        with pytest.raises(Killed):
            compact(local, lease, target_rows=6)
    assert ids(local) == expected
    assert verify(local).ok
    with Lease.acquire(local) as lease:
        compact(local, lease, target_rows=6)
    assert ids(local) == expected
    assert len(local.list("clips")) == 2
    assert verify(local).n_replaced_parts == 0
    outcome.ended(local, expected, exits=["killed", 0], admitted=len(expected))


def test_replaced_parts_are_removed_by_whoever_comes_next(storage: Storage, lease: Lease) -> None:
    paths = [commit(storage, [clip(name)], seq) for seq, name in enumerate("ab")]
    originals = {path: storage.get(path) for path in paths}
    compact(storage, lease)
    storage.put_many(originals)  # as if compact had been killed before it removed them
    assert verify(storage).n_replaced_parts == 2
    assert ids(storage) == ["a", "b"]
    assert finish_compaction(storage, lease) == 2
    assert len(storage.list("clips")) == 1
    assert finish_compaction(storage, lease) == 0


def test_audio_inside_parts_survives_compaction(storage: Storage, lease: Lease) -> None:
    for seq, name in enumerate("abc"):
        data = audio_of(hex_id(name))
        row = clip(name, audio_path=None, audio={"bytes": data, "path": f"{name}.flac"})
        commit(storage, [row], seq, mode="parquet", extras=pa.schema([("n", pa.int32())]))
    compact(storage, lease)
    assert len(list_parts(storage)) == 1
    assert verify(storage).ok
    assert read_clips(storage).schema.metadata[b"huggingface"]


def test_nothing_is_merged_without_the_lease(storage: Storage) -> None:
    loser = Lease.acquire(storage, ttl_s=0.2)
    paths = [commit(storage, [clip(name)], seq) for seq, name in enumerate("ab")]
    with Lease.acquire(storage, ttl_s=0.2):
        for action in (compact, gc):
            with pytest.raises(LeaseLostError):
                action(storage, loser)
    assert [info.path for info in list_parts(storage)] == paths


# --- gc


def age(folder: Path, *names: str) -> None:
    """Makes files two hours older."""
    two_hours_ago = time.time() - 7200
    for name in names:
        os.utime(folder / name, (two_hours_ago, two_hours_ago))


def test_gc_removes_only_old_audio_that_no_part_names(local: Storage, tmp_path: Path) -> None:
    rows = [clip("a"), clip("b")]
    commit(local, rows, 0)
    old, new, shard = audio_name("old"), audio_name("new"), f"audio/shard-{RUN}-0a1b2c-000000.tar"
    local.put_many({old: b"12345", shard: b"tar", new: b"", "report.html": b""})
    leftover = f"clips/.{TORN}.0a1b2c3d4e5f.tmp"
    (tmp_path / "out" / leftover).write_bytes(b"PA")
    age(tmp_path / "out", old, shard, leftover, *(row["audio_path"] for row in rows))

    Lease.acquire(local).release()  # an old lease
    with Lease.acquire(local) as lease:
        would = gc(local, lease, dry_run=True)
        assert local.size(old) == 5
        report = gc(local, lease)
    assert [info.path for info in would.removed] == [info.path for info in report.removed]
    assert [info.path for info in report.audio] == sorted([old, shard])
    assert (report.audio_bytes, len(report.leftovers), len(report.leases)) == (8, 1, 1)
    left = [info.path for info in local.list("audio", hidden=True)]
    assert left == sorted([new, *(row["audio_path"] for row in rows)])
    assert local.size("report.html") == 0
    assert verify(local).ok


# What people keep in an output, and names that are nearly ours.
THINGS_OF_USERS = (
    *("notes.md", "audio/melody.wav", "audio/ab/melody.flac", "audio/ab/.hidden", ".x.tmp"),
    *("audio/.upload.tmp", "clips/.ipynb_checkpoints/a.ipynb", "clips/part-mine.parquet"),
    *("clips/README.md", "failed/why.txt", "runs/notes.json", "lease/old.json", "lease/1.json"),
    *("lease/\u00b2.json", "attempts/mine.json", "attempts/x/y.json", "audio/shard-best.tar"),
    f"audio/ff/{hex_id('x')}-00000000.flac",  # in a folder that is not of its hash
    f"audio/{hex_id('x')[:2]}/{hex_id('x')}-00000000.flac.bak",
    f"clips/part-{RUN}-aaaaaa-000000 (1).parquet",
    f"clips/.{TORN}.orig.tmp",
)


def test_upkeep_touches_nothing_that_this_program_did_not_write(
    local: Storage, tmp_path: Path
) -> None:
    for seq, name in enumerate("ab"):
        commit(local, [clip(name)], seq)
    local.put_many(dict.fromkeys(THINGS_OF_USERS, b"mine"))
    age(tmp_path / "out", *THINGS_OF_USERS)

    assert verify(local).ok
    assert verify(local).n_foreign == sum("/" in name for name in THINGS_OF_USERS)
    with Lease.acquire(local) as lease:
        assert compact(local, lease, prune=True).n_parts_after == 1
        assert gc(local, lease, min_age_s=-10).removed == ()
        assert repair(local, lease).n_clips == 0

    assert [local.get(name) for name in THINGS_OF_USERS] == [b"mine"] * len(THINGS_OF_USERS)
    assert ids(local) == ["a", "b"]


def test_gc_keeps_audio_that_a_row_names_as_its_reference(local: Storage, tmp_path: Path) -> None:
    """A clip whose row was edited may be the melody of another one, or of a row that failed."""
    used, wanted, unused = (audio_name(name) for name in ("used", "wanted", "unused"))
    commit(local, [clip("a", melody_uri=f"file:///somewhere/out/{used}")], 0)
    fail(local, [letter("b", row_json=f'{{"style_uri": "../out/{wanted}"}}')], 0)
    local.put_many(dict.fromkeys((used, wanted, unused), b"1"))
    with Lease.acquire(local) as lease:
        assert [info.path for info in gc(local, lease, min_age_s=-10).audio] == [unused]


def test_audio_behind_a_link_is_found_and_kept(local: Storage, tmp_path: Path) -> None:
    """The audio may lie on another disk."""
    commit(local, [clip("a"), clip("b")], 0)
    orphan = audio_name("orphan")
    local.put(orphan, b"1")
    (tmp_path / "out/audio").rename(tmp_path / "disk")
    (tmp_path / "out/audio").symlink_to(tmp_path / "disk")
    (tmp_path / "disk/again").symlink_to(tmp_path / "out")  # in a circle
    (tmp_path / "disk/nowhere").symlink_to(tmp_path / "none")

    report = verify(local)
    assert report.ok
    assert report.n_clips == 2
    with Lease.acquire(local) as lease:
        assert [info.path for info in gc(local, lease, min_age_s=-10).audio] == [orphan]
    assert verify(local).ok
    assert (tmp_path / "disk/again").is_symlink()


def test_gc_goes_by_the_clock_of_the_store(storage: Storage, lease: Lease) -> None:
    storage.put(audio_name("orphan"), b"1")
    assert not gc(storage, lease, min_age_s=3600).audio
    time.sleep(1.2)  # S3 tells times in whole seconds
    lease.release()
    with Lease.acquire(storage) as later:
        assert len(gc(storage, later, min_age_s=0).audio) == 1
        assert later.generation == 2
    assert len(committed_ids(storage)) == 0


def test_gc_touches_nothing_while_a_part_is_unreadable(storage: Storage, lease: Lease) -> None:
    """Its clips may be whole; without it nobody knows which audio is theirs."""
    storage.put_many({audio_name("whose"): b"1", f"clips/{TORN}": b"PAR1"})
    with pytest.raises(UnreadablePartError):
        gc(storage, lease, min_age_s=-10)
    assert storage.size(audio_name("whose")) == 1
