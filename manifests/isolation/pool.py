"""Readers side by side: each piece of work has one process, a deadline and a memory limit."""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from manifests.isolation.process import Factory, Reader, Server, ServerError
from manifests.row_errors import (
    CrashingReferenceError,
    GreedyReferenceError,
    RowError,
    SlowReferenceError,
    UnexpectedRowError,
)

READERS = 4
_SERVER_STARTS = 3  # for one piece of work; a server that ends is nobody's fault
_MB = 2**20


class Work(NamedTuple):
    """What a reader is to do, and how long it may take."""

    content: Any
    limit_s: float


class PoolClosedError(RuntimeError):
    """The pool was closed while an answer was awaited."""


class _HarmError(Exception):
    """A reader did not survive its work, or was not allowed to go on."""

    def __init__(self, row_error: RowError, alone: bool) -> None:
        super().__init__(str(row_error))
        self.row_error, self.next_alone = row_error, alone


class ReaderPool:
    """Has work done in processes, which are started with the first piece. Safe for several threads.

    A piece of work that crashes its process, takes too long or too much memory is tried once more
    in a new process, then it is a RowError. After a crash or for want of memory it has all of the
    pool's memory the second time, and no other reader runs beside it.

    Args:
        factory: Makes the handler of the readers.
        memory_mb: What all readers together may use beyond what they share from their start.
        n_readers: Pieces of work at once.
    """

    def __init__(self, factory: Factory, memory_mb: int, n_readers: int = READERS) -> None:
        self._factory, self._memory_mb, self._n = factory, memory_mb, n_readers
        self._threads = ThreadPoolExecutor(n_readers, thread_name_prefix="reference")
        self._turn = threading.Lock()  # who wants all places waits for them before anybody else
        self._places = threading.Semaphore(n_readers)
        self._lock = threading.Lock()  # of what follows
        self._server: Server | None = None
        self._idle: list[Reader] = []
        self._closed = False

    def __enter__(self) -> ReaderPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def server_pid(self) -> int | None:
        """Id of the process from which readers are forked, while there is one."""
        with self._lock:
            return None if self._server is None else self._server.pid

    def answers(self, works: Iterable[Work]) -> Iterator[Any]:
        """The result of each piece of work in order, or the RowError that it ends in.

        Raises:
            ServerError: The processes can't be started.
            PoolClosedError: The pool was closed meanwhile.
        """
        asked: deque[Future[Any]] = deque()
        for work in works:
            asked.append(self._threads.submit(self._result, work))
            if len(asked) >= self._n:  # no more, since results take memory
                yield asked.popleft().result()
        while asked:
            yield asked.popleft().result()

    def close(self) -> None:
        """Ends all processes; answers that are awaited become PoolClosedErrors."""
        with self._lock:
            self._closed = True
            server, self._server = self._server, None
        if server is not None:
            server.kill()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _result(self, work: Work) -> Any:
        try:
            try:
                return self._patiently(work, alone=False)
            except _HarmError as harm:
                return self._patiently(work, harm.next_alone)
        except _HarmError as harm:
            return harm.row_error
        except RowError as error:
            return error

    def _patiently(self, work: Work, alone: bool) -> Any:
        """Tries again where it was the server that ended."""
        for start in range(_SERVER_STARTS):
            with self._all_places() if alone else self._place():
                server = self._running_server()
                try:
                    return self._try(server, work, alone)
                except ServerError:
                    self._forget(server)
                    if start + 1 == _SERVER_STARTS:
                        raise
        raise AssertionError("unreachable")

    def _try(self, server: Server, work: Work, alone: bool) -> Any:
        memory_mb = self._memory_mb if alone else self._memory_mb // self._n
        reader = self._reader(server)
        try:
            kind, value = reader.ask(work.content, memory_mb * _MB, work.limit_s)
        except EOFError:
            raise _HarmError(_crash(reader.at, reader.kill()), True) from None
        except TimeoutError:
            reader.kill()
            raise _HarmError(_hang(reader.at, work.limit_s), False) from None
        if kind == "no memory" or alone:
            reader.kill()
        else:
            with self._lock:
                self._idle.append(reader)
        if kind == "no memory":
            raise _HarmError(_greed(reader.at, memory_mb), True)
        if kind == "refused":
            raise value
        if kind == "failed":
            raise _unexpected(reader.at, value)
        return value

    @contextmanager
    def _place(self) -> Iterator[None]:
        with self._turn:
            self._places.acquire()
        try:
            yield
        finally:
            self._places.release()

    @contextmanager
    def _all_places(self) -> Iterator[None]:
        """Waits until no reader is at work, and ends those that wait for some."""
        with self._turn:
            for _ in range(self._n):
                self._places.acquire()
        try:
            with self._lock:
                idle, self._idle = self._idle, []
            for reader in idle:
                with suppress(ServerError):
                    reader.kill()
            yield
        finally:
            self._places.release(self._n)

    def _running_server(self) -> Server:
        with self._lock:
            if self._closed:
                raise PoolClosedError("the job is over")
            if self._server is None:
                self._server = Server(self._factory)
            server = self._server
        try:
            server.wait_until_ready()
        except ServerError:
            self._forget(server)
            raise
        return server

    def _reader(self, server: Server) -> Reader:
        with self._lock:
            while self._idle:
                reader = self._idle.pop()
                if reader.server is server:
                    return reader
        return server.fork()

    def _forget(self, server: Server) -> None:
        """A server that has ended, with its readers; PoolClosedError where that was intended."""
        with self._lock:
            if self._server is server:
                self._server, self._idle = None, []
            if self._closed:
                raise PoolClosedError("the job is over")
        server.kill()


def _crash(where: str, status: int) -> RowError:
    how = f"exit code {os.waitstatus_to_exitcode(status)}"
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        how = f"killed by signal {number}, {signal.Signals(number).name}"
    return CrashingReferenceError(
        f"{where}: reading it ended two processes (the last one: {how}); convert it with another "
        "program or leave it out, then `retry`"
    )


def _hang(where: str, limit_s: float) -> RowError:
    return SlowReferenceError(
        f"{where}: was not read within {limit_s:g} s, twice; cut it, or raise "
        "--prepare-timeout-s, then `retry`"
    )


def _greed(where: str, memory_mb: int) -> RowError:
    return GreedyReferenceError(
        f"{where}: reading it needs more than {memory_mb} MB of memory; cut it, lower its sample "
        "rate, or raise --prepare-memory-mb, then `retry`"
    )


def _unexpected(where: str, what: str) -> RowError:
    return UnexpectedRowError(
        f"{where}: could not be prepared ({what}); that is an error of this program, see the "
        "actors' logs; report it, then leave the reference out or `retry`"
    )
