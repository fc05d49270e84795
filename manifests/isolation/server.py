"""The process from which readers are forked: it imports what they need once, and runs nothing else.

It has one thread, so that a fork is safe, and takes orders of 9 bytes over a socket: `F` with a
file descriptor (fork a reader that answers there; the reply is its id) and `R` with an id (wait for
a reader that has ended; the reply is its wait status). Readers end with it, and it ends with the
process that started it.
"""

import ctypes
import faulthandler
import os
import resource
import signal
import socket
import struct
import sys
import time
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from manifests.isolation.frames import receive, send
from manifests.row_errors import RowError

ORDER = struct.Struct("<cQ")
REPLY = struct.Struct("<q")
NO_MEMORY = ("can't allocate memory", "bad_alloc", "Cannot allocate memory")  # as libraries say it
_PR_SET_PDEATHSIG = 1
_REAP_S = 5.0

Note = Callable[[str], None]
Handler = Callable[[Any, Note], Any]
"""Does one piece of work. It tells which reference it is about to read, in the words of messages,
and raises a RowError for what is the row's own fault."""


def main(control_fd: int, parent: int) -> None:
    """Serves until the other end of the socket is closed."""
    _end_with(parent)
    for each in (signal.SIGINT, signal.SIGTERM):  # what ends the job is the parent's to decide
        signal.signal(each, signal.SIG_IGN)
    control = socket.socket(fileno=control_fd)
    path, args = receive(control)
    try:
        module, _, name = path.partition(":")
        handler: Handler = getattr(import_module(module), name)(*args)
    except Exception as error:
        traceback.print_exc()
        send(control, f"{type(error).__name__}: {error}")
        return
    send(control, None)
    control.settimeout(None)
    server = os.getpid()
    while True:
        order, fds, _, _ = socket.recv_fds(control, ORDER.size, 1)
        if not order:
            return
        what, number = ORDER.unpack(order)
        if what == b"R":
            control.sendall(REPLY.pack(_reap(number)))
            continue
        reader = os.fork()
        if reader == 0:
            control.close()
            _read(fds[0], server, handler)
        os.close(fds[0])
        control.sendall(REPLY.pack(reader))


def _reap(reader: int) -> int:
    """The wait status of a reader; that of one that was killed where it does not end, as one that
    waits for a dead network disk."""
    ends = time.monotonic() + _REAP_S
    while time.monotonic() < ends:
        found, status = os.waitpid(reader, os.WNOHANG)
        if found:
            return status
        time.sleep(0.005)
    return signal.SIGKILL


def _read(fd: int, server: int, handler: Handler) -> None:
    """A reader: does one piece of work after the other, until nobody asks any more."""
    code = 1
    try:
        _end_with(server)
        faulthandler.enable()
        peer = socket.socket(fileno=fd)
        base = _data_bytes()
        while True:
            memory_bytes, work = receive(peer)
            if base is not None:
                _limit_memory(base + memory_bytes)
            answer = _answer(handler, work, lambda where: send(peer, ("at", where)))
            try:
                send(peer, answer)
            except MemoryError:  # while it was written, before anything was sent
                send(peer, ("no memory", None))
    except EOFError:
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)  # what the server would do at its end is not for a reader to do


def _answer(handler: Handler, work: Any, note: Note) -> tuple[str, Any]:
    try:
        return "done", handler(work, note)
    except RowError as error:
        return "refused", error.with_traceback(None)
    except MemoryError:
        return "no memory", None
    except Exception as error:
        if any(words in str(error) for words in NO_MEMORY):
            return "no memory", None
        traceback.print_exc()
        return "failed", f"{type(error).__name__}: {error}"


def _end_with(parent: int) -> None:
    """Has the system kill this process when `parent` ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before
        os._exit(1)


def _limit_memory(n_bytes: int) -> None:
    """Makes allocations fail past so many bytes of writable memory."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (n_bytes, hard))


def _data_bytes() -> int | None:
    """Writable memory that this process has, as the limit counts it; None where that is unknown."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmData:"):
                return int(line.split()[1]) * 1024
    except OSError:  # not Linux
        return None
    return None
