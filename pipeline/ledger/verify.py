"""Checks that an output is complete: each clip once, each audio object with its size and hash, and
each signature with what it signs."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from pipeline.ledger.id_set import pack_ids
from pipeline.ledger.marked import MARK_COLUMNS, MarkAudit, MarksFound
from pipeline.ledger.names import FOLDERS, Kind, is_audio, is_leftover, is_ours, sidecar_of
from pipeline.ledger.parts import (
    UnreadablePartError,
    on_steady_listing,
    read_part,
    reading,
    split_parts,
)
from pipeline.storage import (
    THREADS,
    ObjectInfo,
    ObjectNotFoundError,
    Storage,
    StorageError,
)

KEY_COLUMNS = ["clip_id", "id", "take", "weights_hash"]
AUDIO_COLUMNS = ["clip_id", "audio_path", "audio_member", "audio_bytes", "audio_sha256"]

ProblemKind = Literal[
    "unreadable part",
    "unreadable audio",
    "doubled",
    "missing",
    "wrong size",
    "wrong sha256",
    "wrong signature",
]
Sizes = Mapping[str, int]


@dataclass(frozen=True)
class Problem:
    """A fault: the clips concerned are missing or damaged."""

    kind: ProblemKind
    where: str
    """path of the object or part"""
    detail: str
    rows: tuple[tuple[str, str], ...] = ()
    """the clips whose audio is damaged or missing: path of the part, clip_id"""

    def __str__(self) -> str:
        return f"{self.kind}: {self.where}: {self.detail}"


@dataclass(frozen=True)
class VerifyReport:
    """What an output holds. Only `problems` are errors; killed runs leave the rest behind."""

    n_parts: int
    n_clips: int
    problems: tuple[Problem, ...]
    n_superseded: int
    """clips whose row was edited later; `compact --prune` drops them"""
    n_replaced_parts: int
    """parts that a merged part replaces; the next run or `compact` removes them"""
    n_unreferenced: int
    """audio objects that no part names; `gc` removes them"""
    unreferenced_bytes: int
    n_leftovers: int
    """temporary files of killed writers, records of attempts; `gc` removes them"""
    n_foreign: int
    """objects in the folders of this program that it did not write; no command touches them"""
    marks: MarksFound = field(default_factory=MarksFound)
    """what clips are marked with, and whether their signatures hold"""

    @property
    def ok(self) -> bool:
        return not self.problems


def verify(storage: Storage, *, deep: bool = True) -> VerifyReport:
    """Checks every committed clip against the store.

    Args:
        storage: root of the output.
        deep: read all audio, compare its sha256 and check its signature; otherwise only that it
            exists with its size.

    Raises:
        MarksError: MUSICGEN_C2PA_CERT is set and holds no certificate.
    """
    return on_steady_listing(lambda: _verify(storage, deep))


def _verify(storage: Storage, deep: bool) -> VerifyReport:
    parts, replaced = split_parts(storage, "clips", strict=False)
    problems: list[Problem] = list(_unreadable_others(storage))
    readable: list[ObjectInfo] = []
    keys: list[pa.Table] = []
    for info in parts:  # before the audio: what is committed meanwhile adds objects only
        try:
            keys.append(read_part(storage, info, KEY_COLUMNS))
            readable.append(info)
        except UnreadablePartError as error:
            problems.append(Problem("unreadable part", info.path, str(error)))
    objects = own_objects(storage)
    sizes = {info.path: info.size for info in objects if info.path.startswith("audio/")}
    unused = {path: size for path, size in sizes.items() if is_audio(path)}
    audit = MarkAudit()
    with ThreadPoolExecutor(THREADS) as pool:
        check = _Check(storage, sizes, unused, audit, deep)
        for info in readable:
            problems += _check_part(check, info, pool)
    doubled, n_distinct, n_current = _count(keys)
    return VerifyReport(
        n_parts=len(parts),
        n_clips=n_distinct,
        problems=(*problems, *doubled),
        n_superseded=n_distinct - n_current,
        n_replaced_parts=len(replaced),
        n_unreferenced=len(unused),
        unreferenced_bytes=sum(unused.values()),
        n_leftovers=sum(is_leftover(info.path) for info in objects),
        n_foreign=sum(not is_ours(info.path) and not is_leftover(info.path) for info in objects),
        marks=audit.found(),
    )


def own_objects(storage: Storage) -> list[ObjectInfo]:
    """What lies in the folders that this program writes to, and temporary files at the root."""
    return [
        *(info for folder in FOLDERS for info in storage.list(folder, hidden=True)),
        *(info for info in storage.list(hidden=True, deep=False) if is_leftover(info.path)),
    ]


def _unreadable_others(storage: Storage) -> Iterator[Problem]:
    """Parts of dead letters and of scores."""
    kinds: tuple[Kind, ...] = ("failed", "scores")
    for info in (info for kind in kinds for info in split_parts(storage, kind, strict=False)[0]):
        try:
            read_part(storage, info)
        except UnreadablePartError as error:
            yield Problem("unreadable part", info.path, str(error))


def _count(keys: list[pa.Table]) -> tuple[list[Problem], int, int]:
    """Clips that stand twice, how many different ones there are, and how many are current."""
    if not keys:
        return [], 0, 0
    table = pa.concat_tables(keys)
    ids, times = np.unique(pack_ids(table["clip_id"].to_pylist()), return_counts=True)
    doubled = [
        Problem("doubled", "clips", f"clip {clip.ljust(16, bytes(1)).hex()} stands {n} times")
        for clip, n in zip(ids[times > 1].tolist(), times[times > 1].tolist(), strict=True)
    ]
    n_current = len(table.group_by(["id", "take", "weights_hash"]).aggregate([]))
    return doubled, len(ids), n_current


@dataclass(frozen=True)
class _Check:
    """What all parts are checked with.

    Attributes:
        sizes: Of the objects below audio/.
        unused: Those that no part has named so far.
    """

    storage: Storage
    sizes: Sizes
    unused: dict[str, int]
    audit: MarkAudit
    deep: bool

    def lost(self, rows: Sequence[dict[str, Any]]) -> None:
        """Counts the signatures of clips whose audio is not there as it was."""
        for row in rows if self.deep else ():
            self.audit.note(row, "invalid")


def _check_part(check: _Check, info: ObjectInfo, pool: ThreadPoolExecutor) -> list[Problem]:
    try:
        with reading(check.storage, info) as part:
            names = set(part.schema_arrow.names)
            columns = [*AUDIO_COLUMNS, *(name for name in MARK_COLUMNS if name in names)]
            if "audio" in names:
                batches = part.iter_batches(32, columns=[*columns, *(["audio"] * check.deep)])
                return [p for batch in batches for p in _check_inside(check, info, batch)]
            table = part.read(columns=columns)
    except UnreadablePartError as error:
        return [Problem("unreadable part", info.path, str(error))]
    check.audit.claim(table)
    objects: dict[str, list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        path = row["audio_path"]
        objects.setdefault(path, []).append(row | {"part": info.path})
        check.unused.pop(path, None)
        if row.get("c2pa") == "sidecar":
            check.unused.pop(sidecar_of(path), None)

    def check_one(path: str) -> list[Problem]:
        rows, problems = objects[path], list(_check_object(check, path, objects[path]))
        for row in rows if not check.deep else ():
            check.audit.note(row, "unchecked")
        return problems

    return [found for problems in pool.map(check_one, objects) for found in problems]


def _check_inside(check: _Check, info: ObjectInfo, batch: pa.RecordBatch) -> Iterator[Problem]:
    """Clips whose audio is a column of the part."""
    check.audit.claim(batch)
    for row in batch.to_pylist():
        if not check.deep:
            check.audit.note(row, "unchecked")
            continue
        audio = (row["audio"] or {}).get("bytes")
        row["part"] = info.path
        yield from _compare(check, row, info.path, audio, row.get("c2pa_sidecar"))


def _check_object(check: _Check, path: str, rows: list[dict[str, Any]]) -> Iterator[Problem]:
    """The clips in one audio object: one in a file, many in a tar."""
    names = ", ".join(row["clip_id"] for row in rows[:3])
    is_tar = rows[0]["audio_member"] is not None
    wanted = [path]
    if rows[0].get("c2pa") == "sidecar" and not is_tar:
        wanted.append(sidecar_of(path))
    for each in wanted:
        if each not in check.sizes:
            detail = f"no such object, wanted by clip {names}"
            yield Problem("missing", each, detail, _places(rows))
            check.lost(rows)
            return
    if not is_tar and check.sizes[path] != rows[0]["audio_bytes"]:
        yield _wrong_size(rows[0], path, check.sizes[path])
        check.lost(rows)
        return
    if not check.deep:
        return
    try:
        data = [check.storage.get(each) for each in wanted]
        members = _members(data[0]) if is_tar else dict(zip(wanted, data, strict=True))
    except (ObjectNotFoundError, tarfile.TarError) as error:
        detail = f"can't be read ({error}), wanted by clip {names}"
        yield Problem("missing", path, detail, _places(rows))
        check.lost(rows)
        return
    except StorageError as error:  # it may be whole: no repair
        yield Problem("unreadable audio", path, f"{error}, wanted by clip {names}")
        return
    for row in rows:
        name = row["audio_member"] or path
        yield from _compare(check, row, path, members.get(name), members.get(sidecar_of(name)))


def _members(tar: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        files: Iterable[tarfile.TarInfo] = (entry for entry in archive if entry.isfile())
        return {entry.name: _content(archive, entry) for entry in files}


def _content(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(entry)
    return file.read() if file else b""


def _compare(
    check: _Check, row: dict[str, Any], where: str, data: bytes | None, sidecar: bytes | None
) -> Iterator[Problem]:
    """Holds the audio of a clip, and its signature, against its row."""
    if data is None:
        detail = f"no audio of clip {row['clip_id']} inside"
        yield Problem("missing", where, detail, _places([row]))
    elif len(data) != row["audio_bytes"]:
        yield _wrong_size(row, where, len(data))
    elif hashlib.sha256(data).hexdigest() != row["audio_sha256"]:
        detail = f"clip {row['clip_id']} is not what was committed: damaged"
        yield Problem("wrong sha256", where, detail, _places([row]))
    else:
        fault = check.audit.fault(row, data, sidecar)
        if fault is not None:
            detail = f"clip {row['clip_id']}: its C2PA {fault}"
            yield Problem("wrong signature", where, detail, _places([row]))
        return
    check.lost([row])


def _wrong_size(row: dict[str, Any], where: str, size: int) -> Problem:
    detail = f"{size} bytes, clip {row['clip_id']} was committed with {row['audio_bytes']}"
    return Problem("wrong size", where, detail, _places([row]))


def _places(rows: Sequence[dict[str, Any]]) -> tuple[tuple[str, str], ...]:
    return tuple((row["part"], row["clip_id"]) for row in rows)
