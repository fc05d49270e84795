"""When a replica counts as standing still."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pipeline.ledger.attempts import ActorIdentity, Attempt, AttemptLog, read_attempts
from pipeline.runtime.silence import SilenceWatch
from pipeline.storage import Storage, open_storage
from tests.pipeline.outputs import RUN, hex_id

A = hex_id("a")


@dataclass
class Ender:
    """Remembers whose process was to be ended."""

    can_end: bool = True
    ended: list[Attempt] = field(default_factory=list)

    def end_process(self, attempt: Attempt) -> bool:
        self.ended.append(attempt)
        return self.can_end


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path))


def begin(storage: Storage, name: str, actor: str = "actor") -> AttemptLog:
    return AttemptLog.begin(storage, RUN, name, ActorIdentity(actor), 8)


def a_watch(storage: Storage, ender: Ender, said: list[str] | None = None) -> SilenceWatch:
    say = (said if said is not None else []).append
    return SilenceWatch(storage, RUN, 100.0, ender, say)


def test_a_process_that_stands_still_is_ended_within_the_timeout(storage: Storage) -> None:
    ender, said = Ender(), list[str]()
    watch, still, busy = (
        a_watch(storage, ender, said),
        begin(storage, "x"),
        begin(storage, "y", "b"),
    )
    still.record_in_hand([A], alone=True, suspects=[A])
    still.beat()
    for second in range(0, 101, 10):
        busy.beat()
        watch.look(float(second))

    assert [attempt.replica for attempt in ender.ended] == ["x"]
    assert "replica x (process " in said[0]
    assert "stood still for 90 s" in said[0]
    born = begin(storage, "second").now
    assert born.deaths_alone == {
        A: ["the process said nothing for 90 s, so the driver ended it (--hang-timeout-s 100)"]
    }
    assert (born.beats, born.earlier) == (0, ("x",))


def test_its_successor_has_the_whole_time_again(storage: Storage) -> None:
    ender = Ender()
    watch = a_watch(storage, ender)
    begin(storage, "x").beat()
    for second in range(0, 101, 10):
        watch.look(float(second))
    begin(storage, "second").beat()
    for second in range(110, 181, 10):
        watch.look(float(second))
    assert len(ender.ended) == 1

    watch.look(200.0)
    assert [attempt.replica for attempt in ender.ended] == ["x", "second"]


def test_what_could_not_be_ended_is_tried_again_and_not_told(storage: Storage) -> None:
    ender, said = Ender(can_end=False), list[str]()
    watch = a_watch(storage, ender, said)
    begin(storage, "x").beat()
    for second in range(0, 201, 10):
        watch.look(float(second))

    assert len(ender.ended) == 2
    assert said == []


@pytest.mark.parametrize("state", ["never said that it lives", "ended in order"])
def test_who_need_not_speak_is_left_alone(state: str, storage: Storage) -> None:
    ender = Ender()
    watch, log = a_watch(storage, ender), begin(storage, "x")
    if state == "ended in order":
        log.beat()
        log.end("drained")
    for second in range(0, 301, 10):
        watch.look(float(second))

    assert ender.ended == []


def test_a_store_that_does_not_answer_proves_nothing(storage: Storage, tmp_path: Path) -> None:
    ender = Ender()
    watch, log = a_watch(storage, ender), begin(storage, "x")
    log.beat()
    watch.look(0.0)
    (path,) = read_attempts(storage, RUN)
    whole = (tmp_path / path).read_bytes()
    (tmp_path / path).write_bytes(b"half of a rec")
    watch.look(50.0)
    (tmp_path / path).write_bytes(whole)
    for second in (60.0, 100.0, 130.0):
        watch.look(second)
    assert ender.ended == []

    watch.look(150.0)
    assert len(ender.ended) == 1
