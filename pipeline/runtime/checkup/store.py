"""Checks that an output can be written, listed, read, and created in exclusively; and its clock.

What is written has a name that no other run of the check uses, and is deleted at the end.
"""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from manifests.uris.errors import RetryPolicy
from pipeline.runtime.checkup.finding import NOTE, OK, WRONG, Finding
from pipeline.storage import Storage, StorageError, open_storage

T = TypeVar("T")

GB = 10**9
PROBE_BYTES = 4_000_000  # about an encoded clip of a minute
FOLDER = "doctor"
RETRY = RetryPolicy(attempts=2, read_timeout_s=10.0, deadline_s=60.0)
LOW_BYTES, NONE_BYTES = 10 * GB, GB
SKEW_NOTED_S, SKEW_WRONG_S = 5.0, 300.0  # S3 refuses requests 900 s off


def output(uri: str, options: Mapping[str, Any]) -> Iterator[Finding]:
    """Does to the output what a run does, and stops at the first step that fails."""
    try:
        storage = open_storage(uri, options, retry=RETRY)
    except StorageError as error:
        yield _told("output", error)
        return
    probe = _Probe(storage)
    try:
        yield from probe.findings()
    finally:
        probe.clean()
        storage.close()


@dataclass
class _Probe:
    """One run of the check on one output."""

    storage: Storage
    token: str = field(default_factory=lambda: secrets.token_hex(16))
    made: list[Path] = field(default_factory=list)  # folders that were not there before
    modified: float = 0.0  # of the object, by the clock of the store
    begun: float = 0.0  # before and after it was written, by ours
    written: float = 0.0

    @property
    def path(self) -> str:
        return f"{FOLDER}/{self.token}.bin"

    @property
    def lock(self) -> str:
        return f"{FOLDER}/{self.token}.lock"

    @property
    def data(self) -> bytes:
        return self.token.encode() * (PROBE_BYTES // len(self.token))

    def findings(self) -> Iterator[Finding]:
        self.made = _missing_folders(self.storage)
        steps: tuple[tuple[str, Callable[[], str]], ...] = (
            ("output write", self._write),
            ("output list", self._list),
            ("output read", self._read),
            ("output create", self._create),
        )
        for check, step in steps:
            begun = time.monotonic()
            try:
                found = step()
            except StorageError as error:
                yield _told(check, error)
                return
            except _RefutedError as error:
                yield Finding(check, WRONG, str(error), error.way_out)
                return
            yield Finding(check, OK, found, took_s=time.monotonic() - begun)
        yield self._clock()
        yield from self._space()

    def _write(self) -> str:
        self.begun = time.time()
        took_s, _ = _timed(lambda: self.storage.put(self.path, self.data))
        self.written = time.time()
        return f"{len(self.data) / 1e6:.1f} MB in {_speed(len(self.data), took_s)}"

    def _list(self) -> str:
        took_s, found = _timed(lambda: self.storage.list(FOLDER))
        mine = [info for info in found if info.path == self.path]
        if not mine or mine[0].size != len(self.data):
            raise _RefutedError(
                "an object that was just written is not listed",
                "a run needs a store whose listings are up to date: S3, Google Cloud Storage, "
                "Ceph, or a file system",
            )
        self.modified = mine[0].mtime
        return f"the object is there at once, {1000 * took_s:.0f} ms"

    def _read(self) -> str:
        took_s, data = _timed(lambda: self.storage.get(self.path))
        if data != self.data:
            raise _RefutedError("other bytes come back than were written", "use another store")
        return f"the same bytes in {_speed(len(data), took_s)}"

    def _create(self) -> str:
        """Of two that create one object, the second is refused: the lease stands on this."""
        first, second = secrets.token_hex(8), secrets.token_hex(8)
        took_s, is_mine = _timed(lambda: self.storage.create_once(self.lock, first.encode(), first))
        if not is_mine or self.storage.create_once(self.lock, second.encode(), second):
            raise _RefutedError(
                "the store lets a second writer create what exists: two runs could both write",
                "use a store that knows `If-None-Match: *` (AWS S3, Ceph, MinIO), or a folder on "
                "a file system with hard links",
            )
        return f"a second writer is refused, {1000 * took_s:.0f} ms"

    def _clock(self) -> Finding:
        """How far apart the clocks are at least: the store tells whole seconds, and writing takes
        its time."""
        ahead_s = max(self.begun - self.modified - 1.0, 0.0)
        skew_s = ahead_s or -max(self.modified - self.written, 0.0)
        if not skew_s:
            return Finding("clock", OK, "this machine's clock and the output's agree")
        apart = (
            f"at least {abs(skew_s):.1f} s {'ahead of' if skew_s > 0 else 'behind'} the output's"
        )
        if abs(skew_s) >= SKEW_WRONG_S:
            return Finding(
                "clock", WRONG, f"this machine's clock is {apart}",
                "set it, or let chrony or systemd-timesyncd do so: object stores refuse requests "
                "that are 15 minutes off, and {date} may name another day",
            )  # fmt: skip
        state = NOTE if abs(skew_s) > SKEW_NOTED_S else OK
        return Finding("clock", state, f"this machine's clock is {apart}")

    def _space(self) -> Iterator[Finding]:
        if self.storage.protocol != "file":
            return
        free = shutil.disk_usage(_folder_of(self.storage)).free
        told = f"{free / GB:.1f} GB free"
        if free < NONE_BYTES:
            yield Finding(
                "output space", WRONG, f"{told}: 256 clips of 30 s as WAV take 0.5 GB",
                "make room, or give another --output",
            )  # fmt: skip
        else:
            yield Finding("output space", OK if free >= LOW_BYTES else NOTE, told)

    def clean(self) -> None:
        """Deletes what the check has made, folders too where nothing else came to lie in them."""
        with suppress(StorageError):
            self.storage.delete([self.path, self.lock])
        for folder in self.made:
            with suppress(OSError):
                folder.rmdir()


class _RefutedError(Exception):
    """The store does something else than a run needs."""

    def __init__(self, found: str, way_out: str) -> None:
        super().__init__(found)
        self.way_out = way_out


def _told(check: str, error: StorageError) -> Finding:
    """The message of a StorageError ends with the way out, in brackets."""
    text, _, way_out = str(error).rpartition(" (")
    if text and way_out.endswith(")"):
        return Finding(check, WRONG, text, way_out.removesuffix(")"))
    return Finding(check, WRONG, str(error), "check --output")


def _timed(action: Callable[[], T]) -> tuple[float, T]:
    begun = time.monotonic()
    value = action()
    return time.monotonic() - begun, value


def _speed(size: int, took_s: float) -> str:
    return f"{1000 * took_s:.0f} ms, {size / 1e6 / max(took_s, 1e-6):.0f} MB/s"


def _folder_of(storage: Storage) -> Path:
    return Path(storage.root.removeprefix("file://"))


def _missing_folders(storage: Storage) -> list[Path]:
    """Folders that the check will make, the innermost first."""
    if storage.protocol != "file":
        return []
    probe = _folder_of(storage) / FOLDER
    return [folder for folder in (probe, *probe.parents) if not folder.exists()]
