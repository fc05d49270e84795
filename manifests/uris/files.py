"""Reading a file that may lie in an object store, whose requests are repeated where that helps."""

from __future__ import annotations

import errno
import io
from collections.abc import Callable
from typing import Any, BinaryIO, TypeVar, cast

from manifests.redaction import redact, secrets_in_uri, shown_uri
from manifests.uris.errors import RetryPolicy, try_again
from manifests.uris.filesystems import OBJECT_STORES, split_uri
from manifests.uris.range_file import RangeFile

T = TypeVar("T")
WEB = ("http", "https")
RETRY = RetryPolicy()
READ_WHOLE_BYTES = 8 * 2**20  # the columns of a smaller file are not worth a request each


def open_file(fs: Any, uri: str, path: str) -> BinaryIO:
    """A file to read.

    Args:
        fs: The file system.
        uri: The file's address, which says what kind of store it is.
        path: The file's path in `fs`.
    """
    scheme = split_uri(uri)[0]
    if scheme in WEB:  # a server may know no ranges
        size = again(uri, lambda: fs.info(path)).get("size")
        if size and size <= READ_WHOLE_BYTES:
            return io.BytesIO(again(uri, lambda: fs.cat_file(path)))
    if scheme not in OBJECT_STORES:
        return cast(BinaryIO, fs.open(path, "rb"))

    def read(start: int, end: int) -> bytes:
        return again(uri, lambda: _exactly(fs.cat_file(path, start=start, end=end), end - start))

    size = int(again(uri, lambda: fs.info(path)["size"]))
    if size <= READ_WHOLE_BYTES:
        return io.BytesIO(read(0, size) if size else b"")
    return io.BufferedReader(RangeFile(read, size), 2**20)


def _exactly(data: bytes, size: int) -> bytes:
    if len(data) != size:
        raise OSError(errno.EIO, f"got {len(data)} of {size} bytes")
    return data


def again(uri: str, action: Callable[[], T]) -> T:
    """Runs an access to `uri` that can be repeated, until a store that misbehaves recovers."""
    secrets = secrets_in_uri(uri)
    return try_again(
        action, RETRY, lambda error: f"{shown_uri(uri)}: {redact(str(error), secrets)}"
    )
