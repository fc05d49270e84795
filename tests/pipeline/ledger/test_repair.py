"""`verify --repair`: damaged audio becomes what is still to make, and nothing else does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.ledger import read_clips, read_dead_letters
from pipeline.ledger.lease import Lease
from pipeline.ledger.repair import repair
from pipeline.ledger.verify import verify
from pipeline.storage import Storage, open_storage
from tests.pipeline.outputs import TORN, audio_of, clip, commit, committed_ids, fail, hex_id, letter
from tests.reliability.outcomes import Outcome, fault


@pytest.fixture
def storage(output_root: str) -> Storage:
    return open_storage(output_root)


def damage(storage: Storage) -> dict[str, str]:
    """Ten clips in three parts, of which three are damaged in three ways; name to path."""
    rows = {str(i): clip(i) for i in range(10)}
    for seq, names in enumerate(("0123", "4567", "89")):
        commit(storage, [rows[name] for name in names], seq, generation=1)
    paths = {name: str(row["audio_path"]) for name, row in rows.items()}
    storage.delete([paths["1"]])
    storage.put(paths["2"], b"short")
    flipped = bytearray(audio_of(hex_id("4")))
    flipped[5] ^= 1
    storage.put(paths["4"], bytes(flipped))
    return paths


def ids(storage: Storage) -> list[str]:
    return sorted(read_clips(storage, ["id"])["id"].to_pylist())


def test_exactly_the_damaged_clips_are_to_be_made_again(storage: Storage) -> None:
    damage(storage)
    with Lease.acquire(storage) as lease:
        would = repair(storage, lease, dry_run=True)
        assert len(ids(storage)) == 10
        done = repair(storage, lease)

    assert (would.n_clips, done.n_clips, done.left) == (3, 3, 0)
    assert ids(storage) == ["0", "3", "5", "6", "7", "8", "9"]
    known = committed_ids(storage)
    assert [known.contains(hex_id(str(i))) for i in (1, 2, 4)] == [False] * 3
    assert verify(storage).ok
    with Lease.acquire(storage) as lease:
        assert repair(storage, lease).n_clips == 0
    commit(storage, [clip(i) for i in (1, 2, 4)], 9)  # as the next run does
    assert verify(storage).n_clips == 10
    assert verify(storage).ok


def test_sizes_alone_find_what_they_can(storage: Storage) -> None:
    damage(storage)
    with Lease.acquire(storage) as lease:
        assert repair(storage, lease, deep=False).n_clips == 2
    assert [problem.kind for problem in verify(storage).problems] == ["wrong sha256"]


def test_an_old_dead_letter_of_a_damaged_clip_does_not_stand_again(storage: Storage) -> None:
    """Else the next run would skip the row that it is to make."""
    fail(storage, [letter("mended"), letter("broken"), letter("since")], 0, generation=1)
    made = [clip(name, row=name) for name in ("mended", "since")]
    commit(storage, made, 0, generation=2)
    fail(storage, [letter("since")], 1, generation=3)  # with other settings
    storage.delete([row["audio_path"] for row in made])
    with Lease.acquire(storage) as lease:
        repair(storage, lease)

    assert ids(storage) == []
    standing = read_dead_letters(storage)["row_key"].to_pylist()
    assert sorted(standing) == sorted(hex_id(f"row {name}") for name in ("broken", "since"))


def test_unreadable_parts_are_moved_and_what_they_named_is_made_again(storage: Storage) -> None:
    commit(storage, [clip("a")], 0)
    storage.put_many({f"clips/{TORN}": b"PAR1 torn", f"failed/{TORN}": b""})
    with Lease.acquire(storage) as lease:
        would = repair(storage, lease, dry_run=True)
        assert storage.size(f"clips/{TORN}") == 9
        done = repair(storage, lease)

    assert would.parts_moved == done.parts_moved == (f"damaged/{TORN}", f"damaged/{TORN}")
    assert storage.size(f"clips/{TORN}") is None
    assert storage.size(f"damaged/{TORN}") is not None
    assert verify(storage).ok
    assert ids(storage) == ["a"]


def test_audio_that_only_cannot_be_read_now_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that fails for a while must not cost a single clip."""
    from pipeline.storage import StorageError

    local = open_storage(str(tmp_path / "out"))
    rows = [clip("a"), clip("b")]
    commit(local, rows, 0)
    get = Storage.get

    def failing(storage: Storage, path: str) -> bytes:
        if path == rows[0]["audio_path"]:
            raise StorageError("access was denied")
        return get(storage, path)

    with Lease.acquire(local) as lease, monkeypatch.context() as patch:
        patch.setattr(Storage, "get", failing)
        done = repair(local, lease)
    assert (done.n_clips, done.left) == (0, 1)
    assert ids(local) == ["a", "b"]


@fault("data/repair-killed", "`verify --repair` is killed", "after any of its writes; again")
@pytest.mark.parametrize("survives", range(5))
def test_repair_may_be_killed_after_any_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, survives: int, outcome: Outcome
) -> None:
    """Whatever was done before the kill, no whole clip is lost, none is doubled, and the next
    repair ends in the same place."""
    local = open_storage(str(tmp_path / "out"))
    damage(local)

    class Killed(BaseException):
        pass

    done = 0

    def dying(action: Callable[..., object]) -> Callable[..., object]:
        def act(*arguments: object, **named: object) -> object:
            nonlocal done
            if done == survives:
                raise Killed
            done += 1
            return action(*arguments, **named)

        return act

    with Lease.acquire(local) as lease, monkeypatch.context() as patch:
        patch.setattr(Storage, "create_once", dying(Storage.create_once))
        patch.setattr(Storage, "delete", dying(Storage.delete))
        killed = False
        try:
            repair(local, lease)
        except Killed:
            killed = True
    assert killed == (survives < 4)  # two parts: each is published, then replaces the old one
    standing = ids(local)
    assert len(set(standing)) == len(standing)
    assert {"0", "3", "5", "6", "7", "8", "9"} <= set(standing)
    with Lease.acquire(local) as lease:
        repair(local, lease)
    assert ids(local) == ["0", "3", "5", "6", "7", "8", "9"]
    assert verify(local).ok
    damaged = ("1", "2", "4")
    commit(local, [clip(name) for name in damaged], 9)  # as the next run does
    names = [str(i) for i in range(10)]
    outcome.ended(
        local, names, exits=["killed", 0], admitted=len(names) + len(damaged), redone_at_most=3
    )
