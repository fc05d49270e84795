"""What stands in an output, read by many workers, with the keys of parts kept in `cache/ledger/`.

Parts never change, so the keys of their clips are read once and packed into segments: a later run
opens a few objects instead of each part. The segments may be deleted at any time. One that is
damaged, or names parts that are gone, is left out as far as it is.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.ledger.id_set import (
    ID_BYTES,
    NO_IDS,
    DoneSet,
    Ids,
    among,
    pack_ids,
    sorted_unique,
)
from pipeline.ledger.order import Order, order_of_clips
from pipeline.ledger.parts import list_parts, on_steady_listing, reading
from pipeline.ledger.reader import PartKeys, read_letters, standing_among
from pipeline.ledger.schema import FAILED_SCHEMA
from pipeline.storage import ObjectInfo, Storage, StorageError

log = logging.getLogger(__name__)

FOLDER = "cache/ledger"
PARTS_PER_TASK = 64
FEWEST_PARTS = 64  # that are worth a segment
SEGMENT_CLIPS = 1 << 19
CHECKSUM_BYTES = 16
MOST_SMALL = 8  # segments below half that size, before they are merged
_MAGIC = b"musicgen-batch keys 2\n"
_COLUMNS = ["clip_id", "row_key", "created_at"]

IsOver = Callable[[], bool]
# Runs an action on tasks, somewhere; results come in any order, with the place of their task.
RunTasks = Callable[[Callable[[Any, IsOver], Any], Sequence[Any]], Iterable[tuple[int, Any]]]


@dataclass(frozen=True)
class Standing:
    """What an output holds.

    Attributes:
        known: Committed clips, and rows whose dead letter stands.
        letters: The dead letters that stand.
        parts: `digest_of_parts` of what was read.
    """

    known: DoneSet
    letters: pa.Table
    parts: str = ""

    def failures(self) -> dict[str, int]:
        """How often rows have failed in earlier runs, by row key."""
        keys, counts = (self.letters[name].to_pylist() for name in ("row_key", "attempts"))
        return dict(zip(keys, counts, strict=True))


NOTHING_STANDS = Standing(DoneSet(NO_IDS, NO_IDS), FAILED_SCHEMA.empty_table())


@dataclass(frozen=True, eq=False)
class Segment:
    """The keys of the clips of some parts, part after part.

    Attributes:
        parts: Path, size and number of clips of each part.
        keys: Of all their clips.
    """

    parts: tuple[tuple[str, int, int], ...]
    keys: PartKeys

    def of(self, sizes: dict[str, int]) -> Segment:
        """Without the parts that no longer stand there in that size."""
        stays = [sizes.get(path) == size for path, size, _ in self.parts]
        if all(stays):
            return self
        mask = np.repeat(stays, [n for _, _, n in self.parts])
        keys = PartKeys(*(column[mask] for column in vars(self.keys).values()))
        kept = zip(self.parts, stays, strict=True)
        return Segment(tuple(part for part, stay in kept if stay), keys)


def digest_of_parts(infos: Iterable[ObjectInfo]) -> str:
    """Of the names and sizes of parts, which never change."""
    named = json.dumps(sorted((info.path, info.size) for info in infos))
    return blake2b(named.encode(), digest_size=16).hexdigest()


def read_standing(
    storage: Storage, run_tasks: RunTasks | None = None, *, keep: bool = False
) -> Standing:
    """Everything that stands in an output.

    Args:
        storage: Root of the output.
        run_tasks: Reads parts elsewhere; by default they are read here.
        keep: Write what was read into the cache; the caller holds the lease.
    """
    return on_steady_listing(lambda: _read_standing(storage, run_tasks or _here, keep))


def _read_standing(storage: Storage, run_tasks: RunTasks, keep: bool) -> Standing:
    parts = [*list_parts(storage, "failed"), *list_parts(storage, "clips")]
    letters, order = read_letters(storage)
    keys_of_letters = np.unique(pack_ids(letters["row_key"].to_pylist()))
    sizes = {info.path: info.size for info in parts if info.path.startswith("clips/")}
    clips, rows = [NO_IDS], list[PartKeys]()

    def take(segment: Segment) -> None:
        clips.append(segment.keys.clips.copy())  # else all keys of the segment are held
        if len(keys_of_letters):
            failed_once = among(segment.keys.rows, keys_of_letters)
            rows.append(PartKeys(*(c[failed_once] for c in vars(segment.keys).values())))

    small: list[tuple[str, Segment]] = []
    missing = dict(sizes)
    for path, segment in _cached(storage):
        standing = segment.of(missing)
        for part, _, _ in standing.parts:
            del missing[part]
        take(standing)
        if len(standing.keys.clips) < SEGMENT_CLIPS // 2:
            small.append((path, standing))
    for segment in _read_missing(storage, missing, run_tasks):
        take(segment)
        if keep and len(segment.parts) >= FEWEST_PARTS:
            _write(storage, segment)
    if keep and len(small) > MOST_SMALL:
        _merge(storage, small)
    ids = np.concatenate(clips)
    clips.clear()
    ids = sorted_unique(ids)
    standing_letters = letters.filter(pa.array(standing_among(letters, order, rows)))
    keys = np.unique(pack_ids(standing_letters["row_key"].to_pylist()))
    return Standing(DoneSet(ids, keys), standing_letters, digest_of_parts(parts))


def _read_missing(
    storage: Storage, sizes: dict[str, int], run_tasks: RunTasks
) -> Iterator[Segment]:
    """The keys of parts that no segment has, in segments of a size that is worth keeping."""
    infos = [ObjectInfo(path, size, 0.0) for path, size in sizes.items()]
    tasks = [infos[at : at + PARTS_PER_TASK] for at in range(0, len(infos), PARTS_PER_TASK)]
    held: list[Segment] = []
    for _, segment in run_tasks(ReadKeys(storage), tasks):
        held.append(segment)
        if sum(len(each.keys.clips) for each in held) >= SEGMENT_CLIPS:
            yield _joined(held)
            held = []
    if held:
        yield _joined(held)


@dataclass(frozen=True)
class ReadKeys:
    """Reads the keys of some parts.

    Attributes:
        storage: Root of the output.
    """

    storage: Storage

    def __call__(self, infos: Sequence[ObjectInfo], is_over: IsOver) -> Segment:
        """The keys of these parts."""
        parts, found = [], []
        for info in infos:
            if is_over():
                break
            with reading(self.storage, info) as part:
                table = part.read(columns=_COLUMNS, use_threads=False)
                missing = set(_COLUMNS) - set(table.column_names)
                if missing:
                    raise KeyError(f"no columns {sorted(missing)}")
            parts.append((info.path, info.size, table.num_rows))
            found.append(table)
        if not found:
            return Segment((), PartKeys(NO_IDS, NO_IDS, np.empty(0, np.int64)))
        table = pa.concat_tables([each.select(_COLUMNS) for each in found])
        order = np.concatenate([order_of_clips(each) for each in found])
        keys = PartKeys(packed(table["clip_id"]), packed(table["row_key"]), order)
        return Segment(tuple(parts), keys)


def packed(column: pa.ChunkedArray) -> Ids:
    """`pack_ids` of a column of text, without a Python object for each id."""
    digits = column.cast(pa.string()).combine_chunks().cast(pa.large_binary())
    if len(digits) and not digits.null_count:
        offsets = np.frombuffer(digits.buffers()[1], np.int64)
        offsets = offsets[digits.offset : digits.offset + len(digits) + 1]
        if (np.diff(offsets) == 2 * ID_BYTES).all():
            text = digits.buffers()[2][int(offsets[0]) : int(offsets[-1])]
            return np.frombuffer(bytes.fromhex(str(text.to_pybytes(), "ascii")), f"S{ID_BYTES}")
    return pack_ids(column.to_pylist())


def _here(action: Callable[[Any, IsOver], Any], tasks: Sequence[Any]) -> Iterator[tuple[int, Any]]:
    for index, task in enumerate(tasks):
        yield index, action(task, lambda: False)


# --- the cache


def _cached(storage: Storage) -> Iterator[tuple[str, Segment]]:
    for info in storage.list(FOLDER):
        try:
            yield info.path, decode(storage.get(info.path))
        except (ValueError, KeyError, TypeError, StorageError) as error:
            log.warning("%s is left out, it can't be read: %s", storage.uri(info.path), error)


def _write(storage: Storage, segment: Segment) -> str | None:
    name = blake2b(json.dumps(segment.parts).encode(), digest_size=16).hexdigest()
    path = f"{FOLDER}/{name}.keys"
    try:
        storage.put(path, encode(segment), sync=False)
    except StorageError as error:  # it only saves time
        log.warning("the keys of parts could not be kept: %s", error)
        return None
    return path


def _merge(storage: Storage, small: list[tuple[str, Segment]]) -> None:
    """Puts one segment in the place of several."""
    written = _write(storage, _joined([segment for _, segment in small]))
    if written is not None:
        storage.delete(path for path, _ in small if path != written)


def _joined(segments: Sequence[Segment]) -> Segment:
    parts = tuple(part for segment in segments for part in segment.parts)
    columns = zip(*(vars(segment.keys).values() for segment in segments), strict=True)
    return Segment(parts, PartKeys(*(np.concatenate(column) for column in columns)))


def encode(segment: Segment) -> bytes:
    """A segment as an object: a line that names its parts, the keys, and a checksum."""
    columns = [np.ascontiguousarray(column) for column in vars(segment.keys).values()]
    header = json.dumps([list(part) for part in segment.parts]).encode()
    return with_checksum([_MAGIC, header, b"\n", *(column.data for column in columns)])


def decode(data: bytes) -> Segment:
    """What `encode` wrote; ValueError where it is damaged."""
    check(data, _MAGIC)
    end = data.index(b"\n", len(_MAGIC))
    parts = tuple(
        (str(path), int(size), int(n)) for path, size, n in json.loads(data[len(_MAGIC) : end])
    )
    n, at = sum(n for _, _, n in parts), end + 1
    clips, rows = (
        np.frombuffer(data, f"S{ID_BYTES}", n, at + which * n * ID_BYTES) for which in (0, 1)
    )
    order: Order = np.frombuffer(data[at + 2 * n * ID_BYTES : -CHECKSUM_BYTES], np.int64, n)
    return Segment(parts, PartKeys(clips, rows, order))


def with_checksum(pieces: Sequence[bytes | memoryview]) -> bytes:
    """Pieces as one object whose damage is noticed."""
    checksum = blake2b(digest_size=CHECKSUM_BYTES)
    for piece in pieces:
        checksum.update(piece)
    return b"".join([*pieces, checksum.digest()])


def check(data: bytes, magic: bytes) -> None:
    """Raises ValueError unless the object is whole and begins with `magic`."""
    checksum = blake2b(memoryview(data)[:-CHECKSUM_BYTES], digest_size=CHECKSUM_BYTES)
    if not data.startswith(magic) or checksum.digest() != data[-CHECKSUM_BYTES:]:
        raise ValueError("damaged, or of another version")
