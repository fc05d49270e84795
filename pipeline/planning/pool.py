"""Where the tasks of a scan run: in a thread of this process, or in processes of this machine.

A task is data, an action is an object that can be pickled; it gets each task and a function that
says whether the scan is over. A Ray cluster is the third place (`pipeline.runtime.ray_pool`).
"""

import os
import pickle
import queue
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pipeline.ledger.id_set import Ids

TICK_S = 0.1
FEWEST_TASKS = 4  # that are worth processes
MOST_PROCESSES = 16
MOST_DEATHS = 3  # of processes with the same task in hand, before the scan gives up
PACKAGE_PARENT = Path(__file__).resolve().parents[2]

IsOver = Callable[[], bool]
Action = Callable[[Any, IsOver], Any]


class PlanningError(RuntimeError):
    """The manifest can't be scanned, though nothing is wrong with it."""


def usable_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0))


class Pool(Protocol):
    """Runs tasks in any order."""

    def share(self, ids: Ids) -> Callable[[], Ids]:
        """What gives these ids to the actions, without a copy for each of them."""
        ...

    def run(self, action: Action, tasks: Sequence[Any]) -> Iterator[tuple[int, Any] | None]:
        """Results with the places of their tasks. None comes every TICK_S while there is none, so
        that whoever iterates can look around.

        Raises:
            PlanningError: A task can't be run. What an action raises is raised as it is.
        """
        ...

    def close(self) -> None:
        """Ends what still runs, at once."""
        ...


class LocalPool:
    """Processes of this machine, which end with this one. Few tasks run in a thread instead: they
    are done before processes would have started.

    Args:
        n: How many processes; by default one per CPU that this process may use.
    """

    def __init__(self, n: int | None = None) -> None:
        self._n = n or min(MOST_PROCESSES, usable_cpus())
        self._always = n is not None
        self._workers: list[_Worker] = []
        self._over = threading.Event()  # for threads
        self._folder: Path | None = None

    def __enter__(self) -> "LocalPool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def share(self, ids: Ids) -> Callable[[], Ids]:
        """See `Pool.share`: processes map a file."""
        return _Shared(ids, self._file)

    def _file(self) -> str:
        """The path of a new file, which goes with the pool."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="musicgen-plan-"))
        handle, path = tempfile.mkstemp(suffix=".npy", dir=self._folder)
        os.close(handle)
        return path

    def run(self, action: Action, tasks: Sequence[Any]) -> Iterator[tuple[int, Any] | None]:
        """See `Pool.run`. A task whose process dies is given to another one."""
        if self._always or self._workers or len(tasks) >= FEWEST_TASKS:
            return self._in_processes(action, tasks)
        return _in_a_thread(action, tasks, self._over)

    def _in_processes(
        self, action: Action, tasks: Sequence[Any]
    ) -> Iterator[tuple[int, Any] | None]:
        news = pickle.dumps(NewAction(action), protocol=5)
        waiting, deaths, n_left = deque(range(len(tasks))), Counter[int](), len(tasks)
        for worker in self._workers:
            worker.tell(news)
        try:
            while n_left:
                while len(self._workers) < min(self._n, n_left):
                    self._workers.append(_start())
                    self._workers[-1].tell(news)
                for worker in self._workers:
                    if worker.task is None and waiting:
                        worker.task = waiting.popleft()
                        worker.tell(pickle.dumps(tasks[worker.task], protocol=5))
                ready = wait([worker.connection for worker in self._workers], TICK_S)
                if not ready:
                    yield None
                for worker in [each for each in self._workers if each.connection in ready]:
                    answer = worker.answer()
                    index, worker.task = worker.task, None
                    if answer is None:
                        self._workers.remove(worker)
                        deaths[-1 if index is None else index] += 1
                        if max(deaths.values()) == MOST_DEATHS:
                            raise PlanningError(worker.epitaph())
                        if index is not None:
                            waiting.appendleft(index)
                        worker.end()
                        continue
                    is_well, result = answer
                    if not is_well:
                        raise result
                    assert index is not None
                    n_left -= 1
                    yield index, result
        finally:
            for worker in [each for each in self._workers if each.task is not None]:
                worker.end()  # its answer would be taken for that to a later task
                self._workers.remove(worker)

    @property
    def pids(self) -> list[int]:
        """The processes that run now."""
        return [worker.process.pid for worker in self._workers]

    def close(self) -> None:
        """See `Pool.close`."""
        self._over.set()
        for worker in self._workers:
            worker.end()
        self._workers.clear()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def _in_a_thread(
    action: Action, tasks: Sequence[Any], over: threading.Event
) -> Iterator[tuple[int, Any] | None]:
    results: queue.SimpleQueue[tuple[int, bool, Any]] = queue.SimpleQueue()

    def work() -> None:
        for index, task in enumerate(tasks):
            if over.is_set():
                return
            try:
                results.put((index, True, action(task, over.is_set)))
            except BaseException as error:  # whoever iterates raises it
                return results.put((index, False, error))

    threading.Thread(target=work, name="plan", daemon=True).start()
    n_left = len(tasks)
    while n_left:
        try:
            index, is_well, result = results.get(timeout=TICK_S)
        except queue.Empty:
            yield None
            continue
        if not is_well:
            raise result
        n_left -= 1
        yield index, result


@dataclass
class _Shared:
    """Ids in this process; what is pickled is the name of a file that holds them."""

    ids: Ids
    new_file: Callable[[], str]
    path: str | None = None

    def __call__(self) -> Ids:
        return self.ids

    def __reduce__(self) -> tuple[Any, ...]:
        if self.path is None:
            self.path = self.new_file()
            np.save(self.path, self.ids)
        return partial, (_mapped, self.path)


@dataclass
class _Worker:
    """A process, and the place of the task that it has in hand."""

    process: subprocess.Popen[bytes]
    connection: Connection
    task: int | None = None

    def tell(self, message: bytes) -> None:
        """Sends a message; that the process has died is noticed when its answer is read."""
        with suppress(OSError):
            self.connection.send_bytes(message)

    def answer(self) -> tuple[bool, Any] | None:
        """Whether the task went well and its result, or the error; None: the process has died."""
        try:
            found: tuple[bool, Any] = pickle.loads(self.connection.recv_bytes())
        except (EOFError, OSError):
            return None
        return found

    def epitaph(self) -> str:
        """What is said when processes keep dying."""
        code = self.process.wait()
        how = f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
        return (
            f"{MOST_DEATHS} processes ended ({how}) while they scanned the same rows; look for "
            "what ends them, such as a lack of memory; no clip was begun, the same command goes on"
        )

    def end(self) -> None:
        """Ends the process at once."""
        self.process.kill()
        self.process.wait()
        self.connection.close()


def _start() -> _Worker:
    """A new process. Neither the folder nor the script of this one are on its import path: a user's
    file there could stand in place of a module."""
    ours, theirs = socket.socketpair()
    code = (
        f"import sys; sys.path.insert(0, {str(PACKAGE_PARENT)!r}); "
        f"from pipeline.planning.pool import serve; serve({theirs.fileno()})"
    )
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", code],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
        )
    return _Worker(process, Connection(ours.detach()))


def serve(descriptor: int) -> None:
    """The loop of a process: an action, then tasks, until the other side of the pipe is closed."""
    import pyarrow as pa

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the process that started this one decides
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    connection = Connection(descriptor)
    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def receive() -> None:
        while True:
            try:
                inbox.put(connection.recv_bytes())
            except (EOFError, OSError):
                os._exit(0)  # also in the middle of a task: nobody waits for it any more

    threading.Thread(target=receive, daemon=True).start()
    action: Action | None = None
    while True:
        message = pickle.loads(inbox.get())
        if isinstance(message, NewAction):
            action = message.action
            continue
        assert action is not None
        try:
            answer = pickle.dumps((True, action(message, lambda: False)), protocol=5)
        except BaseException as error:  # raised where the results are read
            answer = _pickled_error(error)
        connection.send_bytes(answer)


@dataclass(frozen=True)
class NewAction:
    """What precedes the tasks that are for this action."""

    action: Action


def _pickled_error(error: BaseException) -> bytes:
    try:
        data = pickle.dumps((False, error), protocol=5)
        pickle.loads(data)
        return data
    except Exception:
        said = PlanningError(f"{type(error).__name__}: {error}")
        return pickle.dumps((False, said), protocol=5)


def _mapped(path: str) -> Ids:
    return np.asarray(np.load(path, mmap_mode="r"))
