"""What a replica knows of the commits of its actor, and what that costs."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.ledger import pack_ids
from pipeline.ledger.commits import WATCHED, ActorCommits
from pipeline.ledger.id_set import LONGEST_MERGE, GrowingIds
from pipeline.storage import Storage, open_storage
from tests.faults import fault_proxy
from tests.pipeline.outputs import RUN, clip, commit, fail, hex_id, letter
from tests.s3 import S3Server


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path))


def known(commits: ActorCommits, *names: str) -> list[bool]:
    found: list[bool] = commits.contains_many([hex_id(name) for name in names]).tolist()
    return found


def test_what_earlier_processes_of_the_actor_have_committed_is_known(storage: Storage) -> None:
    commit(storage, [clip("a")], 0, replica="f00001")
    commit(storage, [clip("b")], 1, replica="f00001")
    commit(storage, [clip("c")], 0, replica="f00002")
    commit(storage, [clip("others")], 0, replica="0dd000")
    commit(storage, [clip("old")], 0, replica="f00001", run_id="20250101T000000-000000")
    fail(storage, [letter("d", clip_id=hex_id("d")), letter("e")], 0, "f00001")

    commits = ActorCommits(storage, RUN, ("f00001", "f00002"))

    assert known(commits, "a", "b", "c", "others", "old") == [True, True, True, False, False]
    assert commits.letters == {hex_id("d")}
    assert commits.made_clips == {"f00001", "f00002"}


def test_what_a_process_that_was_given_up_commits_later_is_seen(storage: Storage) -> None:
    """Ray starts an actor anew when it can't reach its process, which may still be at work."""
    commit(storage, [clip("a")], 0, replica="f00001")
    commits = ActorCommits(storage, RUN, ("f00001",))

    commit(storage, [clip("b")], 1, replica="f00001")
    commit(storage, [clip("c")], 2, replica="f00001")
    assert known(commits, "a", "b", "c") == [True, False, False]
    commits.look()

    assert known(commits, "a", "b", "c") == [True, True, True]


def test_its_own_commits_are_known_without_reading_them(storage: Storage) -> None:
    commits = ActorCommits(storage, RUN)

    commits.add([hex_id("a"), hex_id("b")])
    commits.look()

    assert known(commits, "a", "b", "c") == [True, True, False]
    assert len(commits) == 2


@pytest.mark.s3
def test_a_look_costs_the_same_however_many_parts_there_are(
    s3: S3Server,
) -> None:
    with fault_proxy(s3.endpoint) as proxy:
        storage = open_storage(s3.bucket(), {"endpoint_url": proxy.endpoint})
        for seq in range(12):
            commit(storage, [clip(f"other {seq}")], seq, replica="0dd000")
        processes = [f"process{number}" for number in range(WATCHED + 2)]
        commits = ActorCommits(storage, RUN, processes)
        proxy.requests.clear()

        commits.look()
        assert proxy.count("HEAD") == WATCHED
        assert len(proxy.requests) == 2 * WATCHED  # fsspec asks again whether it is a folder
        commit(storage, [clip("late")], 0, replica=processes[-1])
        proxy.requests.clear()
        commits.look()

        assert proxy.count("HEAD") == WATCHED + 1
        assert [path for _, path in proxy.requests if "0dd000" in path] == []
        assert known(commits, "late") == [True]
        proxy.requests.clear()
        ActorCommits(storage, RUN).look()
        assert proxy.requests == []


class TestGrowingIds:
    def test_every_id_is_found_whatever_the_sizes_in_which_they_came(self) -> None:
        ids, rest = GrowingIds(), [hex_id(number) for number in range(3000)]
        draw = np.random.default_rng(0)
        taken: list[str] = []
        while rest:
            size = int(draw.integers(1, 200))
            batch, rest = rest[:size], rest[size:]
            ids.add(pack_ids(batch))
            taken += batch
            if len(taken) % 3 == 0:
                assert ids.among(pack_ids(taken)).all()
        assert ids.among(pack_ids(taken)).all()
        assert not ids.among(pack_ids([hex_id(f"no {n}") for n in range(100)])).any()
        assert len(ids) == 3000

    def test_the_number_of_runs_grows_with_the_logarithm(self) -> None:
        ids = GrowingIds()
        for number in range(1024):
            ids.add(pack_ids([hex_id(number)]))
        assert ids.n_runs <= 10

    def test_long_runs_are_left_as_they_are(self) -> None:
        ids = GrowingIds()
        for start in range(3):
            block = np.arange(start * LONGEST_MERGE, (start + 1) * LONGEST_MERGE, dtype=">u8")
            ids.add(np.repeat(block, 2).view("S16"))
        assert ids.n_runs == 3
        assert len(ids) == 3 * LONGEST_MERGE

    def test_ids_with_the_same_first_half_are_told_apart(self) -> None:
        ids, half = GrowingIds(), hex_id("a")[:16]
        taken = [half + hex_id(number)[:16] for number in range(6)]
        ids.add(pack_ids(taken[:5]))
        assert ids.among(pack_ids(taken)).tolist() == [True] * 5 + [False]

    def test_nothing_is_in_an_empty_set(self) -> None:
        ids = GrowingIds()
        ids.add(pack_ids([]))
        assert not ids.among(pack_ids([hex_id("a")])).any()
        assert ids.n_runs == 0
