"""One way to read and write an output, wherever it lives: a folder, S3, Google Cloud Storage.

A `Storage` is a root URI and relative, "/"-separated paths below it. The ledger relies on three
guarantees: an object exists as a whole or not at all, of several callers of `create_once` one wins,
and a listing shows the present state. Therefore objects are never streamed (an exception inside
`fs.open(..., "wb")` would publish half an object), nothing is renamed on object stores, listings
are never cached, and all retries happen here, in one layer.
"""

from __future__ import annotations

import builtins
import errno
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

from fsspec.asyn import sync

from manifests.redaction import redact, secrets_in, shown_uri
from manifests.uris.errors import (
    ObjectNotFoundError,
    RetryPolicy,
    StorageError,
    is_conflict,
    retrying,
)
from manifests.uris.filesystems import make_filesystem, split_uri
from manifests.uris.range_file import RangeFile
from pipeline.storage import local_files

T = TypeVar("T")

SUPPORTED = ("file", "s3", "gs", "memory")
# S3 takes up to 5 GB in one PUT. A killed multipart upload would leave its pieces behind, and Ceph
# ignores the condition of an exclusive create when it completes one.
ONE_PUT = 5 * 2**30
THREADS = 16
LISTING_DEADLINES = 10  # a listing may take so many deadlines: it has one answer per 1000 keys
BYTES_PER_DEADLINE = 1 << 30  # of a file that is sent in one PUT
FETCHED_AT_ONCE = 32 << 20


@dataclass(frozen=True)
class ObjectInfo:
    """An object in a listing."""

    path: str
    """relative to the root of its storage"""
    size: int
    """in bytes"""
    mtime: float
    """seconds since 1970, by the clock of the store"""


def open_storage(
    uri: str, options: Mapping[str, Any] | None = None, *, retry: RetryPolicy | None = None
) -> Storage:
    """The storage below `uri`. Nothing is read, written or reached yet.

    Args:
        uri: a folder, `file://`, `s3://bucket/prefix`, `gs://bucket/prefix` or `memory://`.
        options: of the fsspec file system, e.g. `endpoint_url`, `key`, `secret`, `anon`, `profile`.
        retry: how long and how often to try again when the store fails.
    """
    return Storage(uri, options or {}, retry or RetryPolicy())


class Storage:
    """Objects below one root URI. Can be pickled, shared by threads and used after a fork."""

    def __init__(self, uri: str, options: Mapping[str, Any], retry: RetryPolicy) -> None:
        self.protocol, location = split_uri(uri)
        if self.protocol not in SUPPORTED:
            raise StorageError(
                f"cannot open {shown_uri(uri)}: {self.protocol}:// is not one of "
                + ", ".join(f"{name}://" for name in SUPPORTED)
            )
        self.root = uri.rstrip("/") if self.protocol != "file" else f"file://{location}"
        self.options = dict(options)
        self.retry = retry
        self._base = location
        self._opened: tuple[int, Any] | None = None
        self._pool: tuple[int, ThreadPoolExecutor] | None = None

    def __repr__(self) -> str:
        return f"Storage({redact(self.root)!r})"

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None, "_pool": None}

    def uri(self, path: str) -> str:
        """The full URI of an object."""
        return f"{self.root}/{_checked(path)}"

    def local_path(self, path: str) -> Path | None:
        """The file of an object on this machine; None in an object store."""
        return Path(self._full(path)) if self.protocol == "file" else None

    # --- reading

    def get(self, path: str) -> bytes:
        """The whole object; ObjectNotFoundError where there is none."""
        full = self._full(path)
        return self._retrying("read", path, lambda: bytes(self._ask("cat_file", full)))

    def get_range(self, path: str, start: int, end: int) -> bytes:
        """Bytes `start` to `end` (exclusive) of an object that is at least so long."""
        full = self._full(path)

        def read() -> bytes:
            data = bytes(self._ask("cat_file", full, start=start, end=end))
            if len(data) != end - start:
                raise OSError(errno.EIO, f"got {len(data)} of {end - start} bytes")
            return data

        return self._retrying("read", path, read)

    def open_range(self, path: str, size: int) -> BinaryIO:
        """A seekable file over an object of `size` bytes that reads only what is asked for."""
        reader = RangeFile(lambda start, end: self.get_range(path, start, end), size)
        return cast(BinaryIO, reader)

    def size(self, path: str) -> int | None:
        """The size in bytes, None where there is no object."""
        full = self._full(path)
        try:
            info = self._retrying("read", path, lambda: dict(self._ask("info", full)))
        except ObjectNotFoundError:
            return None
        return int(info["size"]) if info["type"] == "file" else None

    def fetch(self, path: str, size: int, target: Path) -> None:
        """Writes an object of `size` bytes into a file of this machine, piece by piece."""
        with target.open("wb") as file:
            for start in range(0, size, FETCHED_AT_ONCE):
                file.write(self.get_range(path, start, min(start + FETCHED_AT_ONCE, size)))

    def list(
        self, prefix: str = "", *, hidden: bool = False, deep: bool = True
    ) -> builtins.list[ObjectInfo]:
        """All objects below the folder `prefix`, by path.

        Args:
            prefix: a folder; one that does not exist is empty.
            hidden: also files whose name starts with a dot (leftovers of a killed write).
            deep: at any depth; otherwise only what lies directly in the folder.
        """
        folder = self._full(prefix) if prefix else self._base
        find = self._find_local if self.protocol == "file" else self._find_remote
        found = self._retrying("list", prefix, lambda: find(folder, deep))
        shown = [info for info in found if hidden or not _name(info.path).startswith(".")]
        return sorted(shown, key=lambda info: info.path)

    def exists(self, folder: str = "") -> bool:
        """Whether anything is there: the folder (by default the root), or any object below it.

        A bucket that does not exist is a StorageError, not an empty place.
        """
        full = self._full(folder) if folder else self._base
        if self.protocol == "file":
            return Path(full).is_dir()
        try:
            return bool(self._retrying("list", folder, lambda: self._ask("ls", full, detail=False)))
        except ObjectNotFoundError:
            return False

    # --- writing

    def put(self, path: str, data: bytes, *, sync: bool = True) -> None:
        """Publishes an object in one step, and replaces one that exists there.

        Args:
            path: of the object.
            data: its whole content.
            sync: False where a local file need not survive a crash of the machine.
        """
        full = self._full(path)
        self._retrying("write", path, lambda: self._publish(full, data, replace=True, sync=sync))

    def put_file(self, path: str, file: Path) -> None:
        """Publishes a file of this machine in one step, as `put` does, without holding it in
        memory; up to 5 GB on S3."""
        full = self._full(path)
        self._retrying("write", path, lambda: self._publish_file(full, file))

    def put_many(self, objects: Mapping[str, bytes]) -> None:
        """Publishes several objects in parallel; raises if any of them failed."""
        writing = [self._threads.submit(self.put, *each) for each in objects.items()]
        wait(writing)
        for done in writing:
            done.result()

    def create_once(self, path: str, data: bytes, token: str) -> bool:
        """Publishes an object only if none exists at `path`: of several writers one wins.

        The response of a store can get lost after it has created the object, and the next try then
        finds an object there. So an object that exists is read back; it is ours if it has our
        bytes.

        Args:
            path: of the new object.
            data: its content, which must contain `token`.
            token: unique to this writer, so that equal bytes prove who wrote them.

        Returns:
            True if the object that exists there now is ours.
        """
        if token.encode() not in data:
            raise ValueError(f"{path}: the data must contain the token that proves whose it is")
        full = self._full(path)

        def create() -> bool:
            try:
                self._publish(full, data, replace=False)
            except Exception as error:
                if not is_conflict(error):
                    raise
                standing = self._get_or_none(path)
                if standing is None:
                    raise OSError(errno.EAGAIN, "refused, yet nothing is there") from None
                return standing == data
            return True

        try:
            return self._retrying("create", path, create)
        except StorageError:
            with suppress(StorageError):
                if self._get_or_none(path) == data:
                    return True
            raise

    def delete(self, paths: Iterable[str]) -> None:
        """Removes objects; those that do not exist are ignored."""

        def remove(path: str) -> None:
            full = self._full(path)
            with suppress(ObjectNotFoundError):
                self._retrying("delete", path, lambda: self._ask("rm_file", full))

        with ThreadPoolExecutor(THREADS) as pool:
            for done in [pool.submit(remove, path) for path in paths]:
                done.result()

    def close(self) -> None:
        """Ends the writing threads, which start again when something is written."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool[1].shutdown(wait=False)

    # --- internals

    @property
    def _fs(self) -> Any:
        """The fsspec file system of this process (none of them survives a fork)."""
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = (os.getpid(), make_filesystem(self.protocol, self.options, self.retry))
        return self._opened[1]

    @property
    def _threads(self) -> ThreadPoolExecutor:
        """The writing threads of this process; starting new ones for each commit takes longer than
        the writing."""
        if self._pool is None or self._pool[0] != os.getpid():
            self._pool = (os.getpid(), ThreadPoolExecutor(THREADS, "writing"))
        return self._pool[1]

    def _publish(self, full: str, data: bytes, *, replace: bool, sync: bool = True) -> None:
        if self.protocol == "file":
            local_files.publish(Path(full), data, replace=replace, sync=sync)
        else:
            one_put = {"chunksize": ONE_PUT} if self.protocol == "s3" else {}
            mode = "overwrite" if replace else "create"
            self._ask("pipe_file", full, data, mode=mode, **one_put)

    def _publish_file(self, full: str, file: Path) -> None:
        if self.protocol == "file":
            local_files.publish_file(Path(full), file)
            return
        one_put = {"chunksize": ONE_PUT} if self.protocol == "s3" else {}
        deadlines = 1 + file.stat().st_size // BYTES_PER_DEADLINE
        self._ask("put_file", str(file), full, deadlines=deadlines, **one_put)

    def _ask(self, method: str, *arguments: Any, deadlines: int = 1, **options: Any) -> Any:
        """Calls the file system with a deadline; a call that hangs is tried again."""
        fs = self._fs
        if not fs.async_impl:
            return getattr(fs, method)(*arguments, **options)
        deadline_s = self.retry.deadline_s * (LISTING_DEADLINES if method == "find" else deadlines)
        return sync(fs.loop, getattr(fs, f"_{method}"), *arguments, timeout=deadline_s, **options)

    def _full(self, path: str) -> str:
        return f"{self._base}/{_checked(path)}"

    def _get_or_none(self, path: str) -> bytes | None:
        try:
            return self.get(path)
        except ObjectNotFoundError:
            return None

    def _find_local(self, folder: str, deep: bool) -> builtins.list[ObjectInfo]:
        base = Path(self._base)
        return [
            ObjectInfo(path.relative_to(base).as_posix(), stat.st_size, stat.st_mtime)
            for path, stat in local_files.walk(Path(folder), deep)
        ]

    def _find_remote(self, folder: str, deep: bool) -> builtins.list[ObjectInfo]:
        found = self._ask("find", folder, detail=True, maxdepth=None if deep else 1)
        return [
            ObjectInfo(name[len(self._base) + 1 :], int(info["size"]), _modified_s(info))
            for name, info in found.items()
            if info["type"] == "file" and not name.endswith("/")
        ]

    def _retrying(self, doing: str, path: str, action: Callable[[], T]) -> T:
        uri = f"{self.root}/{path}".rstrip("/")
        return retrying(action, doing, uri, self.retry, secrets_in(self.options))


def _checked(path: str) -> str:
    if path.startswith("/") or "\\" in path or ".." in path.split("/"):
        raise ValueError(f"{path!r} is not a plain relative path below the root")
    return path.rstrip("/")


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _modified_s(info: Mapping[str, Any]) -> float:
    moment = info.get("LastModified") or info.get("mtime") or info.get("created")
    if moment is None:
        return 0.0
    return float(moment) if isinstance(moment, int | float) else float(moment.timestamp())
