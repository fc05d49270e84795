"""Messages between processes over a socket: sizes, then a pickle and the arrays beside it."""

import pickle
import socket
import struct
import time
from typing import Any

_SIZE = struct.Struct("<Q")
_LARGEST_BYTES = 2**32  # of a message; a process whose memory is damaged may announce anything


def send(peer: socket.socket, message: Any, ends: float | None = None) -> None:
    """Sends a message; TimeoutError at `ends`, by the monotonic clock."""
    arrays: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(message, protocol=5, buffer_callback=arrays.append)
    parts = [memoryview(pickled), *(array.raw() for array in arrays)]
    head = _SIZE.pack(len(parts)) + b"".join(_SIZE.pack(part.nbytes) for part in parts)
    for data in (memoryview(head), *parts):
        peer.settimeout(_left_s(ends))
        peer.sendall(data)


def receive(peer: socket.socket, ends: float | None = None) -> Any:
    """The next message.

    Raises:
        EOFError: The other process has ended.
        TimeoutError: None came by `ends`.
    """
    n_parts = _size(peer, ends)
    sizes = [_size(peer, ends) for _ in range(min(n_parts, 2**16))]
    if sum(sizes) > _LARGEST_BYTES:
        raise EOFError("the other process sends no messages any more")
    pickled, *arrays = [_exactly(peer, size, ends) for size in sizes]
    return pickle.loads(pickled, buffers=arrays)


def _size(peer: socket.socket, ends: float | None) -> int:
    size: int = _SIZE.unpack(_exactly(peer, _SIZE.size, ends))[0]
    return size


def _exactly(peer: socket.socket, size: int, ends: float | None) -> bytearray:
    data = bytearray(size)
    rest = memoryview(data)
    while rest:
        peer.settimeout(_left_s(ends))
        n_read = peer.recv_into(rest)
        if n_read == 0:
            raise EOFError("the other process has ended")
        rest = rest[n_read:]
    return data


def _left_s(ends: float | None) -> float | None:
    """Seconds until `ends`, as sockets take them."""
    if ends is None:
        return None
    left = ends - time.monotonic()
    if left <= 0:
        raise TimeoutError("the time is up")
    return left
