"""Reads which clips are committed and which rows failed, from the parts; writes new parts.

A clip is committed when a part has its row. A dead letter stands until a clip of the same row is
committed after it. Nothing of this is kept elsewhere, so no second copy can disagree after a kill.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.ledger.columns import CAME_LATER
from pipeline.ledger.id_set import NO_IDS, Ids, among, pack_ids
from pipeline.ledger.names import part_path
from pipeline.ledger.order import (
    UNKNOWN,
    Order,
    Span,
    generations_of,
    order_of_clips,
    order_of_letters,
)
from pipeline.ledger.parts import map_parts, publish_part, read_known, read_part
from pipeline.ledger.schema import CLIP_FIELDS, FAILED_SCHEMA, clip_schema
from pipeline.ledger.settings import AudioMode
from pipeline.storage import ObjectInfo, Storage


@dataclass(frozen=True, eq=False)
class PartKeys:
    """The keys of the clips in one part, as parallel arrays."""

    clips: Ids
    rows: Ids
    order: Order
    """empty where it was not asked for; see `pipeline.ledger.order`"""


# Stage of a row in failed/ that cancels an earlier dead letter, because its clip is committed.
SETTLED = "settled"


# --- writing


def write_clip_part(
    storage: Storage,
    table: pa.Table,
    run_id: str,
    replica: str,
    seq: int,
    generation: int = UNKNOWN,
) -> str:
    """Commits clips whose audio is already written; returns the path of their part.

    Args:
        storage: root of the output.
        table: the clips.
        run_id: the run that commits them.
        replica: the process of that run.
        seq: number of the part among those of that process.
        generation: of the lease that the run holds.
    """
    extras = [
        field
        for field in table.schema
        if field.name not in CLIP_FIELDS.names and field.name != "audio"
    ]
    mode: AudioMode = "parquet" if "audio" in table.column_names else "files"
    schema = clip_schema(pa.schema(extras), mode)
    if pc.count_distinct(table["clip_id"]).as_py() != len(table):
        raise ValueError(f"part {run_id}-{replica}-{seq} would commit a clip twice")
    path = part_path("clips", run_id, replica, seq)
    return publish_part(storage, path, table, schema, spans=[Span(len(table), generation, seq)])


def write_dead_letter_part(
    storage: Storage,
    table: pa.Table,
    run_id: str,
    replica: str,
    seq: int,
    generation: int = UNKNOWN,
) -> str:
    """Commits dead letters; returns the path of their part. Arguments as in `write_clip_part`."""
    path = part_path("failed", run_id, replica, seq)
    spans = [Span(len(table), generation, seq)]
    return publish_part(storage, path, table, FAILED_SCHEMA, spans=spans)


# --- reading


def dead_letters_of_run(
    storage: Storage, run_id: str, generation: int | None = None
) -> frozenset[str]:
    """Ids of the clips whose dead letters one run has committed so far.

    Args:
        storage: root of the output.
        run_id: the run.
        generation: of the lease that it holds, where an earlier run may have had the same name.
    """
    tables = map_parts(
        storage,
        "failed",
        lambda info: _of_generation(read_part(storage, info, ["clip_id"]), generation),
        run_id,
    )
    return frozenset(clip for table in tables for clip in table["clip_id"].to_pylist() if clip)


def clips_committed_by(storage: Storage, run_id: str, generation: int) -> pa.Table:
    """Columns that measure the clips which one run has committed; arguments as in
    `dead_letters_of_run`."""
    columns = ["n_samples", "sample_rate_hz"]
    tables = map_parts(
        storage,
        "clips",
        lambda info: _of_generation(read_part(storage, info, columns), generation),
        run_id,
    )
    return pa.concat_tables([CLIP_FIELDS.empty_table().select(columns), *tables])


def _of_generation(table: pa.Table, generation: int | None) -> pa.Table:
    if generation is None:
        return table
    return table.filter(pa.array(generations_of(table) == generation))


def read_clips(
    storage: Storage, columns: Sequence[str] | None = None, run_id: str | None = None
) -> pa.Table:
    """All committed clips, or those of one run; name the columns where there may be many.

    An extra column that came with a later manifest is null in the clips of earlier parts.
    """
    tables = map_parts(storage, "clips", lambda info: _read_known(storage, info, columns), run_id)
    if not tables:
        empty = CLIP_FIELDS.empty_table()
        return empty if columns is None else empty.select(list(columns))
    later = CLIP_FIELDS.empty_table().select([n for n in columns or () if n in CAME_LATER])
    table = pa.concat_tables([*tables, later], promote_options="default")
    if columns is None:
        return table
    missing = set(columns) - set(table.column_names)
    if missing:
        raise KeyError(f"{storage.uri('clips')} has no columns {sorted(missing)}")
    return table.select(list(columns))


def _read_known(storage: Storage, info: ObjectInfo, columns: Sequence[str] | None) -> pa.Table:
    """A part, without those extra columns that it lacks; what came with a later version is null."""
    if columns is None:
        return read_part(storage, info)
    table = read_known(storage, info, columns)
    lacking = (set(columns) & set(CLIP_FIELDS.names)) - set(table.column_names) - CAME_LATER
    if lacking:
        raise KeyError(f"no columns {sorted(lacking)}")
    return table


def read_dead_letters(storage: Storage, standing: bool = True) -> pa.Table:
    """Dead letters: those that stand, the latest of each row, or all that were ever written."""
    letters, order = read_letters(storage)
    if not standing:
        return letters
    return letters.filter(pa.array(standing_dead_letters(storage, letters, order)))


def read_letters(storage: Storage) -> tuple[pa.Table, Order]:
    """All dead letters that were ever written, and what sorts them among the clips."""
    read = map_parts(storage, "failed", lambda info: read_part(storage, info))
    tables = [FAILED_SCHEMA.empty_table(), *read]
    orders = [np.empty(0, np.int64), *(order_of_letters(table) for table in read)]
    return pa.concat_tables(tables, promote_options="default"), np.concatenate(orders)


def standing_dead_letters(
    storage: Storage, letters: pa.Table, order: Order
) -> npt.NDArray[np.bool_]:
    """Which of all dead letters stand: the latest of each row, if no clip of it came after."""
    if not len(letters):
        return np.zeros(0, bool)
    keys = map_parts(storage, "clips", lambda info: _read_keys(storage, info, True))
    return standing_among(letters, order, keys)


def _read_keys(storage: Storage, info: ObjectInfo, with_rows: bool) -> PartKeys:
    columns = ["clip_id", "row_key", "created_at"] if with_rows else ["clip_id"]
    table = read_part(storage, info, columns)
    clips = pack_ids(table["clip_id"].to_pylist())
    if not with_rows:
        return PartKeys(clips, NO_IDS, np.empty(0, np.int64))
    return PartKeys(clips, pack_ids(table["row_key"].to_pylist()), order_of_clips(table))


def standing_among(
    letters: pa.Table, order: Order, parts: Sequence[PartKeys]
) -> npt.NDArray[np.bool_]:
    """Which letters are the latest of their row and not followed by a clip of that row."""
    rows = pack_ids(letters["row_key"].to_pylist())
    by_row = np.lexsort((order, rows))
    last = np.ones(len(rows), bool)
    last[:-1] = rows[by_row][1:] != rows[by_row][:-1]
    latest = by_row[last]  # one letter per row, sorted by row
    settled = pc.equal(letters["stage"], SETTLED).to_numpy(zero_copy_only=False)
    keys, stands = rows[latest], ~settled[latest]
    for part in parts:
        known = among(part.rows, keys)
        at = np.searchsorted(keys, part.rows[known])
        mended = part.order[known] >= order[latest][at]
        stands[at[mended]] = False
    mask = np.zeros(len(rows), bool)
    mask[latest[stands]] = True
    return mask
