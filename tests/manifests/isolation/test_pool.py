"""Work that ends, hangs or fills its process concerns nobody else: with real processes."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from manifests.isolation.pool import PoolClosedError, ReaderPool, Work
from manifests.isolation.process import Factory, ServerError
from manifests.row_errors import RowError
from tests.integration.jobs import wait_until

HERE = "tests.manifests.isolation.handlers"
DOER = Factory(f"{HERE}:make_doer")
ROOT = Path(__file__).parents[3]


@pytest.fixture
def pool() -> Iterator[ReaderPool]:
    with ReaderPool(DOER, memory_mb=256, n_readers=2) as made:
        yield made


def answers(pool: ReaderPool, *works: str, limit_s: float = 20.0) -> list[Any]:
    return list(pool.answers(Work(work, limit_s) for work in works))


def exists(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def readers_of(pool: ReaderPool) -> list[int]:
    listed = Path(f"/proc/{pool.server_pid}/task/{pool.server_pid}/children").read_text()
    return [int(pid) for pid in listed.split()]


def said(answer: object) -> tuple[str, str]:
    assert isinstance(answer, RowError)
    return type(answer).__name__, str(answer)


def test_harm_is_the_error_of_its_own_work_alone(pool: ReaderPool) -> None:
    harmful = ("crash", "abort", "kill", "exit:3", "fail", "refuse")
    works = [work for harm in harmful for work in ("take:1", harm)] + ["take:2"]
    found = answers(pool, *works)

    good = [answer for work, answer in zip(works, found, strict=True) if work.startswith("take")]
    assert good == [1] * len(harmful) + [2]
    crash, abort, kill, ended, failed, refused = (said(found[2 * i + 1]) for i in range(6))
    assert crash[0] == abort[0] == kill[0] == ended[0] == "CrashingReferenceError"
    assert crash[1].startswith("the work crash: reading it ended two processes")
    assert "(the last one: killed by signal 11, SIGSEGV)" in crash[1]
    assert "killed by signal 6, SIGABRT" in abort[1]
    assert "killed by signal 9, SIGKILL" in kill[1]
    assert "exit code 3" in ended[1]
    assert failed[0] == "UnexpectedRowError"
    assert "KeyError: 'no such thing'" in failed[1]
    assert refused == ("BadReferenceError", "it is no audio")


def test_a_crash_that_does_not_come_again_is_none(pool: ReaderPool, tmp_path: Path) -> None:
    (reader,) = answers(pool, "pid")
    threading.Timer(0.5, os.kill, (reader, signal.SIGKILL)).start()

    (answer,) = answers(pool, "wait:1")  # in the reader that waits idle

    assert answer not in (reader, None)
    assert not isinstance(answer, RowError)


def test_what_takes_too_long_is_killed(pool: ReaderPool) -> None:
    started = time.monotonic()
    hang, good = answers(pool, "hang", "take:1", limit_s=1.0)

    assert good == 1
    name, words = said(hang)
    assert name == "SlowReferenceError"
    assert words.startswith("the work hang: was not read within 1 s, twice; cut it, or raise")
    assert time.monotonic() - started < 10
    assert len(readers_of(pool)) <= 2


def test_memory_is_limited_and_all_of_it_is_for_who_needs_more_than_its_share(
    pool: ReaderPool,
) -> None:
    share, more, most = answers(pool, "take:100", "take:200", "take:400")

    assert (share, more) == (100, 200)
    name, words = said(most)
    assert name == "GreedyReferenceError"
    assert words.startswith("the work take:400: reading it needs more than 256 MB of memory")
    assert answers(pool, "take:100") == [100]


def test_nothing_starts_before_there_is_work_and_all_ends_with_the_pool() -> None:
    with ReaderPool(DOER, memory_mb=256, n_readers=2) as pool:
        assert pool.server_pid is None
        reader = answers(pool, "pid")[0]
        server = pool.server_pid
        assert server is not None
        assert len(list(Path(f"/proc/{server}/task").iterdir())) == 1  # so that it may fork
        assert exists(server)
        assert exists(reader)
    wait_until(lambda: not exists(server) and not exists(reader), timeout_s=10)


def test_closing_ends_what_is_under_way(pool: ReaderPool) -> None:
    answers(pool, "pid")
    threading.Timer(0.3, pool.close).start()
    with pytest.raises(PoolClosedError):
        answers(pool, "hang", limit_s=60.0)
    with pytest.raises(RuntimeError):
        answers(pool, "pid")


def test_a_server_that_is_killed_is_nobodys_fault(pool: ReaderPool) -> None:
    answers(pool, "pid")
    server = pool.server_pid
    assert server is not None
    threading.Timer(0.3, os.kill, (server, signal.SIGKILL)).start()

    assert answers(pool, "wait:1", "take:1")[1] == 1
    assert pool.server_pid != server


def test_a_start_that_fails_is_said_in_its_own_words() -> None:
    with (
        ReaderPool(Factory(f"{HERE}:make_nothing"), memory_mb=256) as pool,
        pytest.raises(ServerError, match="did not start: RuntimeError: demucs is not installed"),
    ):
        answers(pool, "pid")


def test_processes_end_with_a_parent_that_is_killed_and_ignore_the_folder(tmp_path: Path) -> None:
    """In a working folder whose files have our names."""
    for name in ("pipeline.py", "musicgen.py", "manifests.py", "numpy.py", "soundfile.py"):
        (tmp_path / name).write_text("raise ImportError('a file of the user was imported')\n")
    code = f"""
import sys
sys.path[:] = [p for p in sys.path if p not in ("", {str(tmp_path)!r})]
sys.path.insert(0, {str(ROOT)!r})
from manifests.isolation.pool import ReaderPool, Work
from manifests.isolation.process import Factory
pool = ReaderPool(Factory({DOER.path!r}), 256, 2)
print(next(pool.answers([Work("pid", 60.0)])), pool.server_pid, flush=True)
list(pool.answers([Work("hang", 600.0)]))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    reader, server = map(int, process.stdout.readline().split())
    assert exists(reader)
    assert exists(server)
    process.kill()
    process.wait()
    wait_until(lambda: not exists(server) and not exists(reader), timeout_s=10)
