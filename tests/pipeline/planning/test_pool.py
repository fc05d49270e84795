"""Processes that scan: they divide the work, may die, and end with whoever started them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from manifests.reader import ManifestError
from pipeline.ledger.id_set import Ids
from pipeline.planning.pool import IsOver, LocalPool, PlanningError

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Sum:
    """An action: sums shared ids below a task's number, in the process whose id it gives."""

    ids: Any

    def __call__(self, task: int, is_over: IsOver) -> tuple[int, int]:
        ids: Ids = self.ids()
        return int(np.frombuffer(ids[:task].tobytes(), np.uint8).sum()), os.getpid()


@dataclass(frozen=True)
class Mark:
    """An action that writes down which process has which task in hand, and takes its time."""

    folder: Path

    def __call__(self, task: float, is_over: IsOver) -> float:
        (self.folder / str(os.getpid())).write_text(str(task))
        time.sleep(task)
        return task


@dataclass(frozen=True)
class Die:
    """An action that ends its process, as a lack of memory does."""

    def __call__(self, task: int, is_over: IsOver) -> int:
        if task:
            os.kill(os.getpid(), signal.SIGKILL)
        return task


@dataclass(frozen=True)
class Refuse:
    """An action that finds a fault."""

    def __call__(self, task: int, is_over: IsOver) -> int:
        raise ManifestError(f"m.parquet: {task}")


@pytest.fixture
def pool() -> Iterator[LocalPool]:
    with LocalPool(2) as opened:
        yield opened


def test_tasks_are_divided_and_ids_shared(pool: LocalPool) -> None:
    ids = np.frombuffer(bytes(range(16)) * 1000, "S16")
    tasks = list(range(40))

    found = dict(filter(None, pool.run(Sum(pool.share(ids)), tasks)))

    assert [found[index][0] for index in tasks] == [120 * task for task in tasks]
    assert {pid for _, pid in found.values()} == {*pool.pids}
    assert len({*pool.pids} - {os.getpid()}) == 2


def test_few_tasks_start_no_process() -> None:
    ids = np.frombuffer(bytes(range(16)) * 10, "S16")
    with LocalPool() as pool:
        found = dict(filter(None, pool.run(Sum(pool.share(ids)), [1, 2])))
        assert not pool.pids
    assert found == {0: (120, os.getpid()), 1: (240, os.getpid())}


def test_a_killed_process_loses_no_task(pool: LocalPool, tmp_path: Path) -> None:
    killed: set[int] = set()
    found = []
    for result in pool.run(Mark(tmp_path), [0.3] * 6):
        if result is not None:
            found.append(result[0])
        busy = {int(path.name) for path in tmp_path.iterdir()} & {*pool.pids}
        if busy and not killed:
            killed = {busy.pop()}
            os.kill(*killed, signal.SIGKILL)

    assert sorted(found) == [0, 1, 2, 3, 4, 5]
    assert killed
    assert not killed & {*pool.pids}


def test_rows_that_kill_every_process_end_the_scan_in_a_sentence(pool: LocalPool) -> None:
    with pytest.raises(PlanningError, match=r"3 processes ended \(signal SIGKILL\) while they"):
        list(pool.run(Die(), [0, 0, 1, 0]))


def test_what_an_action_raises_is_raised_as_it_is(pool: LocalPool) -> None:
    with pytest.raises(ManifestError, match=r"m\.parquet: 7"):
        list(pool.run(Refuse(), [7]))
    assert dict(filter(None, pool.run(Die(), [0, 0]))) == {0: 0, 1: 0}  # it can still be used


def test_processes_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from pipeline.planning.pool import LocalPool
from tests.pipeline.planning.test_pool import Mark
for _ in LocalPool(1).run(Mark(Path({str(tmp_path)!r})), [60.0]): pass
"""
    starter = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 60
    while not [*tmp_path.iterdir()] and time.monotonic() < deadline:
        time.sleep(0.05)
    (pid,) = (int(path.name) for path in tmp_path.iterdir())
    starter.kill()
    starter.wait()

    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists()
