"""A file whose reads are range requests: a Parquet file is read by column, not as a whole."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Buffer


class RangeFile(io.RawIOBase):
    """A read-only file whose reads are range requests. Its tail is fetched once and kept."""

    TAIL = 64 * 1024  # holds the footer of a Parquet file

    def __init__(self, read_range: Callable[[int, int], bytes], size: int) -> None:
        self._read_range, self._size = read_range, size
        self._position = 0
        self._tail_start = max(0, size - self.TAIL)
        self._tail: bytes | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, origin + offset)
        return self._position

    def readinto(self, buffer: Buffer) -> int:
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def read(self, n: int = -1) -> bytes:
        start = min(self._position, self._size)
        end = self._size if n is None or n < 0 else min(start + n, self._size)
        self._position = end
        if start == end:
            return b""
        if start < self._tail_start:
            return self._read_range(start, end)
        if self._tail is None:
            self._tail = self._read_range(self._tail_start, self._size)
        return self._tail[start - self._tail_start : end - self._tail_start]
