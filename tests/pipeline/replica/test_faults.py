"""Rows that end, hang or fill the process that makes them, and leaving early; without Ray."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline import ledger
from pipeline.ledger import attempts
from pipeline.ledger.attempts import ActorIdentity
from pipeline.replica import worker as station_module
from pipeline.replica.actor import begin_attempts
from pipeline.replica.messages import ReplicaSettings
from pipeline.replica.worker import ReplicaWorker
from pipeline.storage import Storage
from tests.pipeline.replica.test_worker import a_job

SEAT = ActorIdentity("actor")
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.pipeline.replica.test_faults"])


def rows(*prompts: str, duration_s: float = 0.2) -> list[dict[str, Any]]:
    return [
        {"id": f"r{i}", "prompt": text, "duration_s": duration_s} for i, text in enumerate(prompts)
    ]


@pytest.fixture
def start() -> Iterator[Callable[[ReplicaSettings], ReplicaWorker]]:
    """Starts stations that end with the test."""
    started: list[ReplicaWorker] = []

    def begin(settings: ReplicaSettings) -> ReplicaWorker:
        started.append(ReplicaWorker(settings, begin_attempts(settings, SEAT)))
        return started[-1]

    yield begin
    for worker in started:
        worker.close()


def poison(worker: ReplicaWorker) -> None:
    """Rows with certain prompts do harm as soon as they are in the engine."""
    step = worker.loop.engine.step

    def harmful_step() -> Any:
        harms = {job.spec.prompt for job in worker.loop.tasks.values() if job.admitted_at}
        if "kills" in harms:
            os.kill(os.getpid(), signal.SIGKILL)
        if "hangs" in harms:
            threading.Event().wait()
        return step()

    worker.loop.engine.step = harmful_step


def one_life(settings: ReplicaSettings, prepared: list[dict[str, Any]]) -> None:
    """What an actor does from its start to the end of the task, or to its death."""
    torch.set_num_threads(1)
    worker = ReplicaWorker(settings, begin_attempts(settings, SEAT))
    poison(worker)
    worker.accept(prepared).done.result()


def lives(settings: ReplicaSettings, prepared: list[dict[str, Any]], at_most: int) -> list[int]:
    """Starts the process again until one ends well; the exit codes."""
    codes: list[int] = []
    while not codes or codes[-1] != 0:
        assert len(codes) < at_most, codes
        process = PROCESSES.Process(target=one_life, args=(settings, prepared))
        process.start()
        process.join(60)
        assert process.exitcode is not None
        codes.append(process.exitcode)
    return codes


def letters(storage: Storage) -> dict[str, tuple[str, str]]:
    return {
        row["id"]: (row["stage"], row["message"])
        for row in ledger.read_dead_letters(storage).to_pylist()
    }


def made(storage: Storage) -> list[str]:
    return sorted(ledger.read_clips(storage)["id"].to_pylist())


def test_rows_that_kill_or_hang_their_process_are_kept_out_and_all_others_are_made(
    tmp_path: Path,
) -> None:
    """Three deaths for each of the two: one in company (of up to eight), two alone."""
    table = rows("a", "b", "kills", "c", "d", "hangs", "e", "f")
    settings, prepared, storage, _ = a_job(tmp_path, table, hang_timeout_s=1.0)

    codes = lives(settings, prepared, at_most=7)

    assert codes == [-signal.SIGKILL] * 3 + [1] * 3 + [0]
    assert made(storage) == ["r0", "r1", "r3", "r4", "r6", "r7"]
    found = letters(storage)
    assert {row: stage for row, (stage, _) in found.items()} == {
        "r2": "quarantine",
        "r5": "quarantine",
    }
    assert "killed, or crashed in native code" in found["r2"][1]
    assert "a step of the engine did not return within 1 s (--hang-timeout-s)" in found["r5"][1]


def test_native_code_that_hangs_with_pythons_lock_ends_too(tmp_path: Path) -> None:
    process = PROCESSES.Process(target=hang_with_the_lock)
    process.start()
    process.join(30)
    assert process.exitcode == 1


def hang_with_the_lock() -> None:
    import ctypes

    from pipeline.replica import watchdog

    watchdog.LOCKED_S = 1.0
    watchdog.Watchdog(0.5, lambda clips, words: None)
    time.sleep(0.1)
    ctypes.PyDLL(None).sleep(60)


@pytest.mark.parametrize("where", ["conditioning", "encode"])
@pytest.mark.parametrize("error", [MemoryError("no more"), RuntimeError("can't allocate memory")])
def test_a_row_that_exhausts_memory_is_a_dead_letter_at_once(
    where: str, error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: Any
) -> None:
    settings, prepared, storage, _ = a_job(tmp_path, rows("a", "huge", "b"))
    worker = start(settings)
    work = {
        "conditioning": (station_module, "request_of"),
        "encode": (worker.finisher, "finished"),
    }
    target, name = work[where]
    real = getattr(target, name)

    def exhausts(job: Any, *rest: Any) -> Any:
        if job.spec.prompt == "huge":
            raise error
        return real(job, *rest)

    monkeypatch.setattr(target, name, exhausts)
    worker.accept(prepared).done.result(timeout=60)

    assert made(storage) == ["r0", "r2"]
    assert letters(storage)["r1"][0] == where


def test_a_clip_that_takes_too_long_is_cancelled_and_its_mates_live(
    tmp_path: Path, start: Any
) -> None:
    table = [*rows("a", "b"), {"id": "slow", "prompt": "slow", "duration_s": 300.0}]
    settings, prepared, storage, _ = a_job(tmp_path, table, row_timeout_s=1.0)
    worker = start(settings)

    worker.accept(prepared).done.result(timeout=60)

    assert made(storage) == ["r0", "r1"]
    stage, message = letters(storage)["slow"]
    assert stage == "deadline"
    assert "1 s are allowed: shorten the clip or raise --row-timeout-s" in message
    assert worker.loop.engine.n_active == 0


class TestDrain:
    """What is in the slots is finished or dropped, what is finished is committed."""

    def under_way(self, start: Any, tmp_path: Path, duration_s: float) -> Any:
        table = rows(*"abcdefgh", duration_s=duration_s)
        settings, prepared, storage, _ = a_job(tmp_path, table, part_clips=50)
        worker = start(settings)
        call = worker.accept(prepared)
        until(lambda: worker.loop.engine.n_active == 2)
        return worker, call, storage, prepared

    def test_clips_in_the_slots_are_finished_and_nothing_begins(
        self, tmp_path: Path, start: Any
    ) -> None:
        worker, call, storage, prepared = self.under_way(start, tmp_path, duration_s=3.0)

        worker.drain(60.0)

        statuses = [status.status for status in call.statuses]
        assert call.done.done()
        assert 2 <= statuses.count("clip") < 8
        assert statuses.count("clip") + statuses.count("drained") == 8
        assert len(made(storage)) == statuses.count("clip")
        late = worker.accept(prepared)
        assert late.done.result(timeout=10) is None
        assert {status.status for status in late.statuses} == {"known", "drained"}

    def test_when_the_grace_is_over_clips_are_dropped(self, tmp_path: Path, start: Any) -> None:
        worker, call, storage, _ = self.under_way(start, tmp_path, duration_s=1000.0)
        began = time.monotonic()

        worker.drain(0.5)

        assert time.monotonic() - began < 20
        assert {status.status for status in call.statuses} == {"drained"}
        assert worker.loop.engine.n_active == 0
        assert made(storage) == []

    def test_before_a_node_goes_away_calls_with_undone_rows_do_not_return(
        self, tmp_path: Path, start: Any
    ) -> None:
        """Else Ray would take them for done; so it sends them to another node."""
        worker, call, storage, _ = self.under_way(start, tmp_path, duration_s=3.0)

        worker.drain(60.0, hand_back=False)

        assert len(made(storage)) >= 2
        assert not call.done.done()


def until(what: Callable[[], bool], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def test_the_record_of_a_process_that_lives_names_what_it_has_in_hand(
    tmp_path: Path, start: Any
) -> None:
    settings, prepared, storage, _ = a_job(tmp_path, rows(*"abcd", duration_s=200.0))
    worker = start(settings)
    worker.accept(prepared)
    until(lambda: worker.loop.engine.n_active == 2)

    (record,) = attempts.read_attempts(storage, settings.run_id).values()

    in_engine = set(worker.loop.tasks)
    assert len(in_engine) >= 2
    assert in_engine <= set(record.clips)
    worker.drain(0.0)
