"""The parent's side of the processes: the server, and the readers that are forked from it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from manifests.isolation.frames import receive, send
from manifests.isolation.server import ORDER, REPLY

START_S = 300.0  # for the imports, on a busy machine with a cold disk
_ROOT = Path(__file__).parents[2]
# Our own packages come from where this process has them, never from the user's working folder.
_CODE = (
    "import sys; sys.path.insert(0, sys.argv[3]); "
    "from manifests.isolation.server import main; main(int(sys.argv[1]), int(sys.argv[2]))"
)
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class ServerError(RuntimeError):
    """The process that readers are forked from can't do its work; no row is to blame."""


@dataclass(frozen=True)
class Factory:
    """What makes a reader's handler (see `manifests.isolation.server`).

    Attributes:
        path: `module:function`.
        args: What the function is called with, once, before any reader is forked.
    """

    path: str
    args: tuple[Any, ...] = ()


class Server:
    """A process of `manifests.isolation.server`. Safe for several threads.

    Raises:
        ServerError: No process can be started.
    """

    def __init__(self, factory: Factory) -> None:
        self._lock = threading.Lock()
        self._is_ready = False
        self._control, theirs = socket.socketpair()
        with theirs:
            self._process = self._start(theirs)
        self._told = (factory.path, factory.args)

    def wait_until_ready(self) -> None:
        """Returns when readers can be forked.

        Raises:
            ServerError: The process failed to start; the message holds what the factory raised.
        """
        with self._lock:
            if self._is_ready:
                return
            try:
                ends = time.monotonic() + START_S
                send(self._control, self._told, ends)
                fault = receive(self._control, ends)
                self._control.settimeout(None)
            except (OSError, EOFError) as error:
                self.kill()
                raise ServerError(
                    f"the process that reads references did not start ({error}, exit code "
                    f"{self._process.returncode}); see the lines that it wrote above"
                ) from error
            if fault is not None:
                self.kill()
                raise ServerError(f"the process that reads references did not start: {fault}")
            self._is_ready = True

    @property
    def pid(self) -> int:
        """Id of the process."""
        return self._process.pid

    def fork(self) -> Reader:
        """A new reader. ServerError: the server has ended."""
        ours, theirs = socket.socketpair()
        with theirs:
            pid = self._order(b"F", 0, [theirs.fileno()])
        return Reader(self, pid, ours)

    def reap(self, pid: int) -> int:
        """The wait status of a reader that has ended."""
        return self._order(b"R", pid, [])

    def kill(self) -> None:
        """Ends it, and with it all readers."""
        self._process.kill()
        self._process.wait()
        self._control.close()

    def _start(self, theirs: socket.socket) -> subprocess.Popen[bytes]:
        """The process, started by a thread that lives as long as this process: the system kills it
        when the thread that started it ends."""
        told = [str(theirs.fileno()), str(os.getpid()), str(_ROOT)]
        started: SimpleQueue[subprocess.Popen[bytes] | OSError] = SimpleQueue()

        def keep() -> None:
            try:
                process = subprocess.Popen(
                    [sys.executable, "-P", "-c", _CODE, *told],
                    stdin=subprocess.DEVNULL,
                    stdout=2,  # what libraries print must not mix with what a command prints
                    pass_fds=[theirs.fileno()],
                    env=os.environ | _ONE_THREAD | {"CUDA_VISIBLE_DEVICES": ""},
                    start_new_session=True,  # Ctrl-C in a terminal is for the parent
                )
            except OSError as error:
                started.put(error)
                return
            started.put(process)
            process.wait()

        threading.Thread(target=keep, name="reference-server", daemon=True).start()
        process = started.get()
        if isinstance(process, OSError):
            raise ServerError(f"no process can be started to read references: {process}")
        return process

    def _order(self, what: bytes, number: int, fds: list[int]) -> int:
        try:
            with self._lock:
                socket.send_fds(self._control, [ORDER.pack(what, number)], fds)
                reply = self._control.recv(REPLY.size, socket.MSG_WAITALL)
        except OSError as error:
            raise ServerError(f"the process that reads references has ended ({error})") from error
        if len(reply) < REPLY.size:
            raise ServerError("the process that reads references has ended")
        value: int = REPLY.unpack(reply)[0]
        return value


class Reader:
    """A forked process that does one piece of work at a time. For one thread.

    Attributes:
        server: From which it was forked.
        at: What it was reading last, in its own words.
    """

    def __init__(self, server: Server, pid: int, peer: socket.socket) -> None:
        self.server, self.pid, self._peer = server, pid, peer
        self.at = ""

    def ask(self, work: Any, memory_bytes: int, limit_s: float) -> tuple[str, Any]:
        """The answer to a piece of work: ("done", result), ("refused", RowError), ("failed", text)
        or ("no memory", None).

        Raises:
            EOFError: The process has ended.
            TimeoutError: It has not answered in time.
        """
        ends = time.monotonic() + limit_s
        self.at = ""
        try:
            send(self._peer, (memory_bytes, work), ends)
            while True:
                kind, value = receive(self._peer, ends)
                if kind != "at":
                    return kind, value
                self.at = value
        except (EOFError, TimeoutError):
            raise
        except Exception as error:  # the connection broke, or brings nonsense
            raise EOFError(str(error)) from error

    def kill(self) -> int:
        """Ends the process, unless it has ended by itself; returns its wait status."""
        self._peer.close()
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        return self.server.reap(self.pid)
