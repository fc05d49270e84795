"""The audio of a clip as byte ranges, wherever the audio mode put it.

Only what a row of the index names is read, and only below the output: the path must be one that
this program gives to audio, and in a local output no symbolic link may lead out of it.
"""

from __future__ import annotations

import re
import tarfile
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.audio.encode import MEDIA_TYPES
from pipeline.ledger.clip_audio import MissingAudioError
from pipeline.ledger.names import is_audio, part_name
from pipeline.ledger.parts import reading
from pipeline.ledger.schema import ROWS_PER_GROUP_WITH_AUDIO
from pipeline.storage import ObjectInfo, ObjectNotFoundError, Storage, StorageError

KEPT_BYTES = 128 * 2**20  # of audio inside parts, read a row group at a time
LOOK_AHEAD_BYTES = 64 * 1024  # of a tar: the small members after an audio file, and the next header
_BLOCK = tarfile.BLOCKSIZE
_SHA256 = re.compile(r"[0-9a-f]{64}")
Row = dict[str, Any]


@dataclass(frozen=True)
class ClipAudio:
    """The encoded audio of one clip.

    Attributes:
        size: In bytes.
        media_type: For a browser.
        sha256: Of the bytes, as the row says.
        name: Of the file, for a download.
        read: Bytes from a start to an end (exclusive).
    """

    size: int
    media_type: str
    sha256: str
    name: str
    read: Callable[[int, int], bytes]

    def whole(self) -> bytes:
        """All bytes."""
        return self.read(0, self.size)


class AudioFinder:
    """Finds the audio of clips. Threads may share it.

    Args:
        storage: Root of the output.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._root = Path(storage.root.removeprefix("file://")).resolve()  # of a local one
        self._tars: dict[str, TarIndex] = {}
        self._groups = KeptBytes(KEPT_BYTES)
        self._lock = threading.Lock()

    def of(self, row: Row) -> ClipAudio:
        """The audio of a row of the index.

        Raises:
            MissingAudioError: It is not there, or not where this output keeps audio.
        """
        try:
            path, member = row["audio_path"], row["audio_member"]
            size = int(row["audio_bytes"])
            if path is None:
                data = self._embedded(row)
                size = len(data)
                return self._found(row, size, lambda start, end: data[start:end])
            self._check(path)
            start = 0 if member is None else self._tar(path).offset(member, size)
            if member is None and self._storage.size(path) != size:
                raise MissingAudioError(f"The audio is missing, or has another size: {path}")
        except ObjectNotFoundError:
            raise MissingAudioError(f"The audio is missing: {path}") from None
        except (StorageError, tarfile.TarError, ValueError, KeyError, TypeError) as error:
            if isinstance(error, MissingAudioError):
                raise
            raise MissingAudioError(f"The audio can't be read: {error}") from error
        return self._found(
            row, size, lambda at, end: self._storage.get_range(path, start + at, start + end)
        )

    def _found(self, row: Row, size: int, read: Callable[[int, int], bytes]) -> ClipAudio:
        kind, sha256 = row["audio_format"], str(row["audio_sha256"])
        if kind not in MEDIA_TYPES or not _SHA256.fullmatch(sha256):
            raise MissingAudioError("The row names no audio format of ours, or no sha256")
        return ClipAudio(size, MEDIA_TYPES[kind], sha256, f"{row['clip_id']}.{kind}", read)

    def _check(self, path: str) -> None:
        """Raises MissingAudioError for a path that is no audio of this output."""
        if not is_audio(path):
            raise MissingAudioError("The row names as its audio what is no audio of an output")
        if self._storage.protocol == "file" and not self._is_inside(path):
            raise MissingAudioError(f"{path} leads out of the output (a symbolic link)")

    def _is_inside(self, path: str) -> bool:
        return (self._root / path).resolve().is_relative_to(self._root)

    def _tar(self, path: str) -> TarIndex:
        with self._lock:
            if path not in self._tars:
                size = self._storage.size(path)
                if size is None:
                    raise MissingAudioError(f"The audio is missing: {path}")
                self._tars[path] = TarIndex(
                    lambda start, end: self._storage.get_range(path, start, end), size
                )
            return self._tars[path]

    def _embedded(self, row: Row) -> bytes:
        """The bytes inside a part; the row group is kept, since its neighbours are heard next."""
        part, position = row[":part"], row[":position"]
        if part is None or part_name(part) is None:
            raise MissingAudioError("The part of this clip is gone; it will come back in a moment")
        if self._storage.protocol == "file" and not self._is_inside(part):
            raise MissingAudioError(f"{part} leads out of the output (a symbolic link)")
        key = f"{part}#{position}"
        found = self._groups.get(key)
        if found is None:
            size = self._storage.size(part) or 0
            with reading(self._storage, ObjectInfo(part, size, mtime=0.0)) as opened:
                group, first = _group_of(opened.metadata, position)
                audio = opened.read_row_group(group, columns=["audio"])["audio"].to_pylist()
            for at, each in enumerate(audio, first):
                if each and each["bytes"] is not None:
                    self._groups.put(f"{part}#{at}", each["bytes"])
                    if at == position:
                        found = each["bytes"]
        if found is None:
            raise MissingAudioError(f"The audio is missing inside {part}")
        return found


def _group_of(metadata: Any, position: int) -> tuple[int, int]:
    """The row group that holds a row of a part, and the number of its first row."""
    first = 0
    for group in range(metadata.num_row_groups):
        n_rows = metadata.row_group(group).num_rows
        if position < first + n_rows:
            return group, first
        first += n_rows
    raise KeyError(f"no row {position} ({ROWS_PER_GROUP_WITH_AUDIO} rows a group)")


class TarIndex:
    """Where the members of a tar begin, found by its headers without reading what lies between.

    Args:
        read: Bytes of the tar from a start to an end.
        size: Of the tar.
    """

    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        self._read, self._size = read, size
        self._members: dict[str, tuple[int, int]] = {}  # name to start and size
        self._next = 0  # where the first header lies that was not looked at
        self._ahead: tuple[int, bytes] = (0, b"")
        self._lock = threading.Lock()

    def offset(self, member: str, size: int) -> int:
        """Where a member of that size begins.

        Raises:
            MissingAudioError: There is none.
        """
        with self._lock:
            while member not in self._members and self._step():
                continue
            start, found = self._members.get(member, (0, -1))
        if found != size:
            raise MissingAudioError(f"The audio is missing inside its tar: {member}")
        return start

    def _step(self) -> bool:
        """Takes in the next member; False at the end."""
        header = self._bytes(self._next)
        if len(header) < _BLOCK or not header.strip(b"\0"):
            return False
        entry = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        start = self._next + _BLOCK
        if entry.isfile():
            self._members[entry.name] = (start, entry.size)
        self._next = start + -(-entry.size // _BLOCK) * _BLOCK
        return True

    def _bytes(self, at: int) -> bytes:
        """One block, out of what was read ahead where it lies there."""
        first, ahead = self._ahead
        if not first <= at <= first + len(ahead) - _BLOCK:
            end = min(at + LOOK_AHEAD_BYTES, self._size)
            if end - at < _BLOCK:
                return b""
            first, ahead = self._ahead = at, self._read(at, end)
        return ahead[at - first : at - first + _BLOCK]


class KeptBytes:
    """The bytes that were used last, up to a total size. Threads may share it."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._total = 0
        self._lock = threading.Lock()

    def get(self, key: str) -> bytes | None:
        """What is kept under a key."""
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
            return found

    def put(self, key: str, data: bytes) -> None:
        """Keeps something, in the place of what was used longest ago."""
        with self._lock:
            self._total += len(data) - len(self._kept.pop(key, b""))
            self._kept[key] = data
            while self._total > self._most and len(self._kept) > 1:
                _, old = self._kept.popitem(last=False)
                self._total -= len(old)
