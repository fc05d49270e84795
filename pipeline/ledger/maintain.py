"""Upkeep of an output, under its lease: merges small parts, deletes objects that no part names.

Only objects with the names that this program gives are touched (`pipeline.ledger.names`); whatever
else lies in the output stays.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.ledger.id_set import NO_IDS, Ids, among, pack_ids
from pipeline.ledger.lease import Lease
from pipeline.ledger.merge import KeptPart, Mask, finish_compaction, merge, replaced_parts
from pipeline.ledger.migrate import version_of
from pipeline.ledger.names import (
    AUDIO_MENTIONED,
    MERGED,
    Kind,
    audio_of,
    generation_of,
    is_audio,
    is_leftover,
    part_path,
)
from pipeline.ledger.order import Order, order_of_clips, times_us
from pipeline.ledger.output_schema import standing_schema
from pipeline.ledger.parts import map_parts, new_run_id, read_part, reading
from pipeline.ledger.reader import read_letters, standing_dead_letters
from pipeline.ledger.verify import own_objects
from pipeline.storage import ObjectInfo, Storage

TARGET_ROWS = 50_000
TARGET_BYTES = 128 * 2**20  # a merged part is built in memory and sent in one PUT
_REFERENCES = ("melody_uri", "continuation_uri", "style_uri")


@dataclass(frozen=True)
class CompactReport:
    """What `compact` did, or would do."""

    n_parts_before: int
    n_parts_after: int
    n_doubled_dropped: int
    n_superseded_dropped: int
    n_letters_dropped: int
    removed: tuple[str, ...]
    """paths of the parts that others take the place of"""


@dataclass(frozen=True)
class GcReport:
    """What `gc` removed, or would remove."""

    audio: tuple[ObjectInfo, ...]
    leftovers: tuple[ObjectInfo, ...]
    leases: tuple[ObjectInfo, ...]

    @property
    def audio_bytes(self) -> int:
        """Size of all the audio together."""
        return sum(info.size for info in self.audio)

    @property
    def removed(self) -> tuple[ObjectInfo, ...]:
        """Everything, by path."""
        found = (*self.audio, *self.leftovers, *self.leases)
        return tuple(sorted(found, key=lambda info: info.path))


def compact(
    storage: Storage,
    lease: Lease,
    *,
    prune: bool = False,
    wanted: Ids = NO_IDS,
    target_rows: int = TARGET_ROWS,
    dry_run: bool = False,
) -> CompactReport:
    """Merges small parts, gives all of them the same columns and this schema version, and drops
    clips that stand twice. It may be killed at any moment.

    Args:
        storage: root of the output.
        lease: of that output, held.
        prune: also drop clips whose row was edited later and dead letters that no longer stand. Of
            the clips that one model made of one take one is kept: the one that is wanted, else the
            newest.
        wanted: clip ids that a manifest asks for now, sorted.
        target_rows: parts with as many rows are left alone.
        dry_run: only find out what it would do.
    """
    removed = replaced_parts(storage)
    if not dry_run:
        finish_compaction(storage, lease)
    schema = standing_schema(storage, migrate=True)
    clips, n_doubled, n_superseded = _choose_clips(storage, schema, prune, wanted)
    letters = _choose_letters(storage, prune)
    n_letters = sum(len(part.keep) - part.n_rows for part in letters)
    run_id, n_after = new_run_id(), 0
    chosen: tuple[tuple[Kind, list[KeptPart], pa.Schema | None], ...] = (
        ("clips", clips, schema),
        ("failed", letters, None),
    )
    for kind, parts, columns in chosen:
        for seq, group in enumerate(_groups(parts, target_rows)):
            n_after += any(part.n_rows for part in group)
            if len(group) == 1 and group[0].is_whole:
                continue
            removed += [part.info.path for part in group]
            if not dry_run:
                merge(storage, lease, part_path(kind, run_id, MERGED, seq), group, columns)
    n_before = len(clips) + len(letters)
    dropped = (n_doubled, n_superseded, n_letters)
    return CompactReport(n_before, n_after, *dropped, tuple(sorted(removed)))


def gc(
    storage: Storage, lease: Lease, *, min_age_s: float = 3600.0, dry_run: bool = False
) -> GcReport:
    """Removes audio that no part names, temporary files of killed writers, and old leases.

    Args:
        storage: root of the output.
        lease: of that output, held: nobody else commits meanwhile.
        min_age_s: younger objects are kept: a writer that lost the lease may still be stopping.
        dry_run: only find out what it would remove.
    """
    lease.check()
    objects = own_objects(storage)  # before the parts: what they name later is not here
    leases = {generation_of(info.path): info for info in objects if generation_of(info.path)}
    now_s = leases[lease.generation].mtime  # the store's clock, at most one heartbeat ago
    named, mentioned = _named_audio(storage)
    old = [info for info in objects if now_s - info.mtime > min_age_s]
    found = GcReport(
        audio=tuple(
            info
            for info in old
            if is_audio(info.path)
            and named.isdisjoint(audio_of(info.path))
            and info.path.rpartition("/")[2] not in mentioned
        ),
        leftovers=tuple(info for info in old if is_leftover(info.path)),
        leases=tuple(info for number, info in leases.items() if number < lease.generation),
    )
    lease.check()
    if not dry_run:
        storage.delete(info.path for info in found.removed)
    return found


def _named_audio(storage: Storage) -> tuple[set[str], set[str]]:
    """Paths of the audio of all clips, and file names of audio that a row names as its reference:
    a clip may be the melody of another one."""

    def read(info: ObjectInfo) -> tuple[set[str], set[str]]:
        table = read_part(storage, info, ["audio_path", *_REFERENCES])
        uris = [uri for name in _REFERENCES for uri in table[name].unique().to_pylist() if uri]
        return set(table["audio_path"].unique().to_pylist()), _mentioned(uris)

    clips = map_parts(storage, "clips", read)
    rows = map_parts(
        storage, "failed", lambda info: read_part(storage, info, ["row_json"])["row_json"]
    )
    return (
        set().union(*(paths for paths, _ in clips)),
        set().union(*(names for _, names in clips), *(_mentioned(r.to_pylist()) for r in rows)),
    )


def _mentioned(texts: list[str]) -> set[str]:
    return {name for text in texts for name in AUDIO_MENTIONED.findall(text)}


def _choose_clips(
    storage: Storage, schema: pa.Schema | None, prune: bool, wanted: Ids
) -> tuple[list[KeptPart], int, int]:
    """Which rows of which parts are kept, how many stand twice, how many are superseded."""
    columns = ["clip_id", "id", "take", "weights_hash", "created_at"]

    def read_one(info: ObjectInfo) -> tuple[ObjectInfo, pa.Table, bool]:
        with reading(storage, info) as part:
            standing = part.schema_arrow
            fits = schema is None or (
                standing.names == schema.names and version_of(standing) == version_of(schema)
            )
            return info, part.read(columns=columns), fits

    read = map_parts(storage, "clips", read_one)
    if not read:
        return [], 0, 0
    table = pa.concat_tables([rows for _, rows, _ in read])
    clips = pack_ids(table["clip_id"].to_pylist())
    age = _ranks(np.concatenate([order_of_clips(rows) for _, rows, _ in read]), times_us(table))
    keep = _first_of_each([clips], age)
    n_doubled = int((~keep).sum())
    if prune:
        of_take = [
            np.asarray(table[name].combine_chunks().dictionary_encode().indices)[keep]
            for name in ("id", "take", "weights_hash")
        ]
        # Wanted clips go before all others, then newer before older.
        rank = len(age) - age[keep]
        keep[keep] = _first_of_each(of_take, np.where(among(clips[keep], wanted), -1, rank))
    n_superseded = int((~keep).sum()) - n_doubled
    masks = _deal(keep, [len(rows) for _, rows, _ in read])
    parts = [KeptPart(info, mask, fits) for (info, _, fits), mask in zip(read, masks, strict=True)]
    return parts, n_doubled, n_superseded


def _choose_letters(storage: Storage, prune: bool) -> list[KeptPart]:
    sizes = map_parts(storage, "failed", lambda info: (info, _n_rows(storage, info)))
    if not sizes:
        return []
    keep = np.ones(sum(n_rows for _, n_rows in sizes), bool)
    if prune:
        keep = standing_dead_letters(storage, *read_letters(storage))
    masks = _deal(keep, [n_rows for _, n_rows in sizes])
    return [KeptPart(info, mask) for (info, _), mask in zip(sizes, masks, strict=True)]


def _n_rows(storage: Storage, info: ObjectInfo) -> int:
    with reading(storage, info) as part:
        return int(part.metadata.num_rows)


def _ranks(order: Order, times: Order) -> Order:
    """The place of each row among all, by the order of commits, then by time; the first is 0."""
    ranks = np.empty(len(order), np.int64)
    ranks[np.lexsort((times, order))] = np.arange(len(order))
    return ranks


def _first_of_each(keys: list[npt.NDArray[np.generic]], rank: npt.NDArray[np.int64]) -> Mask:
    """The row with the lowest rank among those that agree in all keys; the first if they tie."""
    order = np.lexsort((rank, *keys))
    first = np.ones(len(rank), bool)
    first[1:] = np.any([key[order][1:] != key[order][:-1] for key in keys], axis=0)
    mask = np.zeros(len(rank), bool)
    mask[order[first]] = True
    return mask


def _deal(keep: Mask, sizes: list[int]) -> list[Mask]:
    """The rows of successive parts."""
    return np.split(keep, np.cumsum(sizes)[:-1])


def _groups(parts: list[KeptPart], target_rows: int) -> Iterator[list[KeptPart]]:
    """Groups of successive parts whose rows fit into one part."""
    group: list[KeptPart] = []
    for part in parts:
        n_rows = sum(other.n_rows for other in group) + part.n_rows
        n_bytes = sum(other.info.size for other in group) + part.info.size
        if group and (n_rows > target_rows or n_bytes > TARGET_BYTES):
            yield group
            group = []
        group.append(part)
    if group:
        yield group
