"""Who is to blame when the process of a replica dies, and what runs after that."""

import threading
from pathlib import Path
from typing import Any

import pytest

from pipeline import ledger
from pipeline.ledger.attempts import (
    ActorIdentity,
    Attempt,
    AttemptLog,
    RepeatedDeathsError,
    forget_attempts,
    next_attempt,
    path_of,
    read_attempt,
)
from pipeline.ledger.lease import Lease
from pipeline.ledger.maintain import gc
from pipeline.ledger.verify import verify
from pipeline.replica.admission import AdmissionQueue
from pipeline.storage import Storage, open_storage
from tests.pipeline.outputs import RUN, clip, commit, fail, hex_id, letter

A, B, C = hex_id("a"), hex_id("b"), hex_id("c")
ACTOR = ActorIdentity("0a1b2c3d", "node 1")


def after(dead: Attempt, settled: tuple[str, ...] = (), committed: bool = False) -> Attempt:
    return next_attempt(dead, "second", ACTOR, settled.__contains__, committed)


def in_hand(*clips: str, **values: Any) -> Attempt:
    return Attempt("first", "node 1", clips=clips, alone=len(clips) == 1, **values)


class TestBlame:
    def test_a_death_in_company_makes_suspects_and_counts_against_nobody(self) -> None:
        born = after(in_hand(A, B, C), settled=(B,))
        assert born.suspects == (A, C)
        assert born.deaths_alone == {}
        assert born.clips == ()

    def test_a_death_alone_counts_and_clears_the_others(self) -> None:
        born = after(in_hand(A, suspects=(A, B)))
        assert born.suspects == (A,)
        assert list(born.deaths_alone) == [A]

    def test_a_clip_that_was_committed_before_the_death_is_not_to_blame(self) -> None:
        born = after(in_hand(A), settled=(A,))
        assert (born.suspects, born.deaths_alone) == ((), {})

    @pytest.mark.parametrize("how", ["drained", "node"])
    def test_leaving_in_order_counts_against_nobody(self, how: str) -> None:
        born = after(in_hand(A, suspects=(A,), ended=how))
        assert (born.suspects, born.deaths_alone, born.deaths) == ((A,), {}, 0)
        assert born.ended is None

    def test_the_loss_of_a_node_counts_against_nobody(self) -> None:
        lost = ActorIdentity("actor", "node 2", seconds_left={"node 1": 0.0}.get)
        born = next_attempt(in_hand(A, suspects=(A, B)), "second", lost, lambda clip: False, False)
        assert (born.suspects, born.deaths_alone, born.deaths) == ((A, B), {}, 0)
        assert born.node == "node 2"

    def test_deaths_are_counted_until_a_process_commits_a_clip(self) -> None:
        assert after(in_hand(A, deaths=3)).deaths == 4
        assert after(in_hand(A, deaths=3), committed=True).deaths == 1


class TestLog:
    def begin(self, storage: Storage, name: str, max_deaths: int = 8) -> AttemptLog:
        return AttemptLog.begin(storage, RUN, name, ACTOR, max_deaths)

    def test_two_deaths_alone_keep_a_row_out(self, tmp_path: Path) -> None:
        storage = open_storage(str(tmp_path))
        for number in range(2):
            log = self.begin(storage, f"process {number}")
            assert log.refusal(A) is None
            log.record_in_hand([A], alone=True, suspects=[A])
            log.blame([A], "a step did not return")
        refusal = self.begin(storage, "third").refusal(A)
        assert "2 attempts" in str(refusal)
        assert "a step did not return" in str(refusal)
        assert "musicgen-batch retry" in str(refusal)

    def test_what_the_run_has_settled_is_not_made_again(self, tmp_path: Path) -> None:
        storage = open_storage(str(tmp_path))
        self.begin(storage, "f00001").record_in_hand([hex_id("x"), B, C], alone=False, suspects=[])
        commit(storage, [clip("x")], 0, replica="f00001")

        fail(storage, [letter("b", clip_id=B)], 0, replica="f00001")
        log = self.begin(storage, "f00002")
        assert log.now.suspects == (C,)
        assert log.commits.letters == {B}
        assert log.now.earlier == ("f00001",)

    def test_a_replica_that_never_makes_a_clip_gives_up(self, tmp_path: Path) -> None:
        """A lasting CUDA error would else restart the actor for ever."""
        storage = open_storage(str(tmp_path))
        for number in range(3):
            self.begin(storage, f"process {number}", 3).blame([], "CUDA error: out of luck")
        with pytest.raises(RepeatedDeathsError, match=r"3 times in a row.*CUDA error: out of luck"):
            self.begin(storage, "last", 3)

    def test_gc_removes_the_records_of_runs_that_were_killed(self, tmp_path: Path) -> None:
        storage = open_storage(str(tmp_path))
        self.begin(storage, "first")
        assert verify(storage).n_leftovers == 1
        assert verify(storage).ok
        with Lease.acquire(storage) as lease:
            gc(storage, lease, min_age_s=-1)
        assert read_attempt(storage, path_of(RUN, "actor")) is None

    def test_a_run_that_ends_forgets_its_own(self, tmp_path: Path) -> None:
        storage = open_storage(str(tmp_path))
        self.begin(storage, "first")
        forget_attempts(storage, RUN)
        assert storage.list("attempts") == []


class TestGate:
    """What passes is named in the record before it does."""

    def gate(self, tmp_path: Path, *suspects: str) -> tuple[AdmissionQueue[str], AttemptLog]:
        storage = open_storage(str(tmp_path))
        first = AttemptLog.begin(storage, RUN, "first", ACTOR, 8)
        first.record_in_hand([*map(hex_id, suspects)], alone=False, suspects=[])
        log = AttemptLog.begin(storage, RUN, "second", ACTOR, 8)
        return AdmissionQueue(log, 3), log

    def fill(self, gate: AdmissionQueue[str], *names: str) -> None:
        for name in names:
            gate.put(hex_id(name), name)

    def test_rows_pass_in_groups_and_the_record_names_all_that_are_inside(
        self, tmp_path: Path
    ) -> None:
        gate, log = self.gate(tmp_path)
        self.fill(gate, *"abcde")
        assert gate.next_group() == ["a", "b", "c"]
        gate.out(hex_id("b"))
        assert gate.next_group() == ["d", "e"]
        assert log.now.clips == tuple(map(hex_id, "acde"))
        assert not log.now.alone

    def test_suspects_run_alone_and_before_all_others(self, tmp_path: Path) -> None:
        gate, log = self.gate(tmp_path, "d", "e")
        self.fill(gate, *"abcde")
        passed: list[list[str]] = []
        for suspect in ("d", "e"):
            passed.append(gate.next_group())
            assert log.now.clips == (hex_id(suspect),)
            assert log.now.alone
            assert gate.isolating
            gate.out(hex_id(suspect))
        passed.append(gate.next_group())
        assert passed == [["d"], ["e"], ["a", "b", "c"]]
        assert not gate.isolating
        assert log.now.suspects == ()

    def test_a_suspect_that_comes_late_waits_until_the_others_are_out(self, tmp_path: Path) -> None:
        gate, log = self.gate(tmp_path, "z")
        self.fill(gate, "a", "b")
        gate.next_group()
        self.fill(gate, "c", "z")
        passed: list[list[str]] = []
        waiting = threading.Thread(target=lambda: passed.append(gate.next_group()))
        waiting.start()
        gate.out(hex_id("a"))
        waiting.join(0.1)
        assert passed == []
        gate.out(hex_id("b"))
        waiting.join(10)
        assert passed == [["z"]]
        assert log.now.alone

    def test_many_suspects_run_in_eighths(self, tmp_path: Path) -> None:
        names = [f"s{i:02d}" for i in range(20)]
        gate, log = self.gate(tmp_path, *names)
        self.fill(gate, *names)
        assert gate.next_group() == names[:3]
        assert not log.now.alone


def test_letters_of_a_run_are_its_own(tmp_path: Path) -> None:

    storage = open_storage(str(tmp_path))
    fail(storage, [letter("a", clip_id=A), letter("b")], 0)
    assert ledger.dead_letters_of_run(storage, RUN) == {A}
    assert ledger.dead_letters_of_run(storage, "20270101T000000-abcdef") == frozenset()
