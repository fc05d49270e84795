"""Upkeep of an output, under its lease: merges small parts, deletes objects that no part names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.ledger.id_set import NO_IDS, Ids, among, pack_ids
from pipeline.ledger.lease import Lease, generation_of
from pipeline.ledger.parts import (
    MERGED,
    Kind,
    map_parts,
    new_run_id,
    part_path,
    publish_part,
    read_part,
    split_parts,
)
from pipeline.ledger.reader import standing_dead_letters
from pipeline.ledger.verify import is_leftover
from pipeline.storage import ObjectInfo, Storage

TARGET_ROWS = 50_000
TARGET_BYTES = 128 * 2**20  # a merged part is built in memory and sent in one PUT
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class CompactReport:
    """What `compact` did."""

    n_parts_before: int
    n_parts_after: int
    n_doubled_dropped: int
    n_superseded_dropped: int
    n_letters_dropped: int


@dataclass(frozen=True)
class GcReport:
    """What `gc` removed."""

    n_audio: int
    audio_bytes: int
    n_leftovers: int
    n_leases: int


@dataclass
class _Part:
    """A part on its way through `compact`."""

    info: ObjectInfo
    keep: Mask

    @property
    def n_rows(self) -> int:
        return int(self.keep.sum())


def finish_compaction(storage: Storage, lease: Lease) -> int:
    """Removes the parts that a merged part replaces, which a killed `compact` left behind.

    Readers ignore them, because the merged part lists them. Were the merged part itself merged into
    another before they are removed, that list would be lost and they would be read again.
    """
    kinds: tuple[Kind, ...] = ("clips", "failed")
    replaced = [info.path for kind in kinds for info in split_parts(storage, kind)[1]]
    if replaced:
        lease.check()
        storage.delete(replaced)
    return len(replaced)


def compact(
    storage: Storage,
    lease: Lease,
    *,
    prune: bool = False,
    wanted: Ids = NO_IDS,
    target_rows: int = TARGET_ROWS,
) -> CompactReport:
    """Merges small parts and drops clips that stand twice. It may be killed at any moment.

    Args:
        storage: root of the output.
        lease: of that output, held.
        prune: also drop clips whose row was edited later and dead letters that no longer stand. Of
            the clips that one model made of one take one is kept: the one that is wanted, else the
            newest.
        wanted: clip ids that a manifest asks for now, sorted.
        target_rows: parts with as many rows are left alone.
    """
    finish_compaction(storage, lease)
    clips, n_doubled, n_superseded = _choose_clips(storage, prune, wanted)
    letters = _choose_letters(storage, prune)
    n_letters = sum(len(part.keep) - part.n_rows for part in letters)
    run_id, n_after = new_run_id(), 0
    chosen: tuple[tuple[Kind, list[_Part]], ...] = (("clips", clips), ("failed", letters))
    for kind, parts in chosen:
        for seq, group in enumerate(_groups(parts, target_rows)):
            path = part_path(kind, run_id, MERGED, seq)
            n_after += _merge(storage, lease, path, group)
    return CompactReport(len(clips) + len(letters), n_after, n_doubled, n_superseded, n_letters)


def gc(storage: Storage, lease: Lease, *, min_age_s: float = 3600.0) -> GcReport:
    """Removes audio that no part names, temporary files of killed writers, and old leases.

    Args:
        storage: root of the output.
        lease: of that output, held: nobody else commits meanwhile.
        min_age_s: younger objects are kept: a writer that lost the lease may still be stopping.
    """
    lease.check()
    objects = storage.list(hidden=True)  # before the parts: what they name later is not here
    leases = {generation_of(info.path): info for info in objects if generation_of(info.path)}
    now_s = leases[lease.generation].mtime  # the store's clock, at most one heartbeat ago
    named = {path for paths in map_parts(storage, "clips", _audio_paths(storage)) for path in paths}
    old = [info for info in objects if now_s - info.mtime > min_age_s]
    leftovers = [info for info in old if is_leftover(info.path)]
    audio = [
        info
        for info in old
        if info.path.startswith("audio/") and info.path not in named and not is_leftover(info.path)
    ]
    ended = [info for generation, info in leases.items() if generation < lease.generation]
    lease.check()
    storage.delete(info.path for info in (*audio, *leftovers, *ended))
    return GcReport(len(audio), sum(info.size for info in audio), len(leftovers), len(ended))


def _choose_clips(storage: Storage, prune: bool, wanted: Ids) -> tuple[list[_Part], int, int]:
    """Which rows of which parts are kept, how many stand twice, how many are superseded."""
    columns = ["clip_id", "id", "take", "weights_hash", "created_at"]
    read = map_parts(storage, "clips", lambda info: (info, read_part(storage, info, columns)))
    if not read:
        return [], 0, 0
    table = pa.concat_tables([rows for _, rows in read])
    clips = pack_ids(table["clip_id"].to_pylist())
    created = np.asarray(table["created_at"].cast(pa.int64()))
    keep = _first_of_each([clips], created)
    n_doubled = int((~keep).sum())
    if prune:
        of_take = [
            np.asarray(table[name].combine_chunks().dictionary_encode().indices)[keep]
            for name in ("id", "take", "weights_hash")
        ]
        # Wanted clips go before all others, then newer before older.
        age = np.argsort(np.argsort(-created[keep], kind="stable"), kind="stable")
        keep[keep] = _first_of_each(of_take, np.where(among(clips[keep], wanted), -1, age))
    n_superseded = int((~keep).sum()) - n_doubled
    return _deal(keep, [(info, len(rows)) for info, rows in read]), n_doubled, n_superseded


def _choose_letters(storage: Storage, prune: bool) -> list[_Part]:
    read = map_parts(storage, "failed", lambda info: (info, read_part(storage, info)))
    if not read:
        return []
    table = pa.concat_tables([rows for _, rows in read])
    keep = standing_dead_letters(storage, table) if prune else np.ones(len(table), bool)
    return _deal(keep, [(info, len(rows)) for info, rows in read])


def _first_of_each(keys: list[npt.NDArray[np.generic]], rank: npt.NDArray[np.int64]) -> Mask:
    """The row with the lowest rank among those that agree in all keys; the first if they tie."""
    order = np.lexsort((rank, *keys))
    first = np.ones(len(rank), bool)
    first[1:] = np.any([key[order][1:] != key[order][:-1] for key in keys], axis=0)
    mask = np.zeros(len(rank), bool)
    mask[order[first]] = True
    return mask


def _deal(keep: Mask, parts: list[tuple[ObjectInfo, int]]) -> list[_Part]:
    ends = np.cumsum([n_rows for _, n_rows in parts])
    masks = np.split(keep, ends[:-1])
    return [_Part(info, mask) for (info, _), mask in zip(parts, masks, strict=True)]


def _groups(parts: list[_Part], target_rows: int) -> Iterator[list[_Part]]:
    """Groups of successive parts whose rows fit into one part."""
    group: list[_Part] = []
    for part in parts:
        n_rows = sum(other.n_rows for other in group) + part.n_rows
        n_bytes = sum(other.info.size for other in group) + part.info.size
        if group and (n_rows > target_rows or n_bytes > TARGET_BYTES):
            yield group
            group = []
        group.append(part)
    if group:
        yield group


def _merge(storage: Storage, lease: Lease, path: str, group: list[_Part]) -> int:
    """Puts one part in the place of a group; returns how many parts hold its rows then."""
    if len(group) == 1 and group[0].keep.all():
        return 1
    paths = [part.info.path for part in group]
    n_after = 0
    if any(
        part.n_rows for part in group
    ):  # otherwise all rows stand in other parts or are obsolete
        rows = [read_part(storage, part.info).filter(pa.array(part.keep)) for part in group]
        table = pa.concat_tables(rows)
        lease.check()
        publish_part(storage, path, table, table.schema, [old.rpartition("/")[2] for old in paths])
        n_after = 1
    lease.check()
    storage.delete(paths)
    return n_after


def _audio_paths(storage: Storage) -> Callable[[ObjectInfo], list[str]]:
    def read(info: ObjectInfo) -> list[str]:
        column = read_part(storage, info, ["audio_path"])["audio_path"]
        return list(column.unique().to_pylist())

    return read
