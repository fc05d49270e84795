"""Reads which clips are committed and which rows failed, from the parts; writes new parts.

A clip is committed when a part has its row. A dead letter stands until a clip of the same row is
committed after it. Nothing of this is kept elsewhere, so no second copy can disagree after a kill.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.ledger.id_set import NO_IDS, DoneSet, Ids, among, pack_ids
from pipeline.ledger.parts import (
    list_parts,
    map_parts,
    part_path,
    publish_part,
    read_part,
    reading,
)
from pipeline.ledger.schema import (
    CLIP_FIELDS,
    FAILED_SCHEMA,
    SCHEMA_VERSION,
    VERSION_KEY,
    SchemaError,
    clip_schema,
    plain_field,
)
from pipeline.ledger.settings import AudioMode
from pipeline.storage import ObjectInfo, Storage, StorageError

Times = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class PartKeys:
    """The keys of the clips in one part, as parallel arrays."""

    clips: Ids
    rows: Ids
    created_us: Times


# Stage of a row in failed/ that cancels an earlier dead letter, because its clip is committed.
SETTLED = "settled"


# --- writing


def write_clip_part(storage: Storage, table: pa.Table, run_id: str, replica: str, seq: int) -> str:
    """Commits clips whose audio is already written; returns the path of their part."""
    extras = [
        field
        for field in table.schema
        if field.name not in CLIP_FIELDS.names and field.name != "audio"
    ]
    mode: AudioMode = "parquet" if "audio" in table.column_names else "files"
    schema = clip_schema(pa.schema(extras), mode)
    if pc.count_distinct(table["clip_id"]).as_py() != len(table):
        raise ValueError(f"part {run_id}-{replica}-{seq} would commit a clip twice")
    return publish_part(storage, part_path("clips", run_id, replica, seq), table, schema)


def write_dead_letter_part(
    storage: Storage, table: pa.Table, run_id: str, replica: str, seq: int
) -> str:
    """Commits dead letters; returns the path of their part."""
    path = part_path("failed", run_id, replica, seq)
    return publish_part(storage, path, table, FAILED_SCHEMA)


def standing_schema(storage: Storage) -> pa.Schema | None:
    """The schema of the parts in `clips/`; None where there is none yet.

    Raises:
        SchemaError: another version of this program wrote them, with other columns.
    """
    parts = list_parts(storage, "clips")
    if not parts:
        return None
    with reading(storage, parts[0]) as part:
        standing: pa.Schema = part.schema_arrow
    version = (standing.metadata or {}).get(VERSION_KEY, b"none").decode()
    if version != SCHEMA_VERSION:
        raise SchemaError(
            f"{storage.uri('clips')} has schema version {version}, this program reads and writes "
            f"{SCHEMA_VERSION}; write to a new --output, or go on with the program that began it"
        )
    return standing


def check_schema(storage: Storage, extras: pa.Schema, audio_mode: AudioMode) -> pa.Schema:
    """The schema to write with: that of the first run, if the columns of this run fit into it.

    Args:
        storage: root of the output.
        extras: the extra columns of this run's manifest.
        audio_mode: where this run puts the audio.

    Raises:
        SchemaError: the first run wrote other columns.
    """
    standing = standing_schema(storage)
    if standing is None:
        return clip_schema(extras, audio_mode)
    where = storage.uri("clips")
    if ("audio" in standing.names) != (audio_mode == "parquet"):
        raise SchemaError(
            f"{where} was begun with audio {'inside' if 'audio' in standing.names else 'beside'} "
            f"the Parquet parts, which --audio {audio_mode} would mix; use the same mode as before "
            "or a new --output"
        )
    own = {*CLIP_FIELDS.names, "audio"}
    fixed = {field.name: field for field in standing if field.name not in own}
    _refuse_new_extras(where, fixed, extras)
    return clip_schema(pa.schema(list(fixed.values())), audio_mode)


def _refuse_new_extras(where: str, fixed: Mapping[str, pa.Field], extras: pa.Schema) -> None:
    new = [field.name for field in extras if field.name not in fixed]
    if new:
        raise SchemaError(
            f"the manifest has extra columns {new} that {where} lacks: its columns were fixed by "
            "the first run; drop them from the manifest or write to a new --output"
        )
    for field in extras:
        kind, expected = plain_field(field).type, fixed[field.name].type
        if kind != expected and not pa.types.is_null(field.type):
            raise SchemaError(
                f"the extra column {field.name} is {kind} in the manifest, {expected} in {where}; "
                "give it the same type or write to a new --output"
            )


# --- reading


def dead_letters_of_run(storage: Storage, run_id: str) -> frozenset[str]:
    """Ids of the clips whose dead letters one run has committed so far."""
    tables = map_parts(
        storage, "failed", lambda info: read_part(storage, info, ["clip_id"]), run_id
    )
    return frozenset(clip for table in tables for clip in table["clip_id"].to_pylist() if clip)


def committed_ids(storage: Storage) -> DoneSet:
    """All committed clips, and the rows whose dead letter stands."""
    letters = read_letters(storage)
    keys_of_letters = np.unique(pack_ids(letters["row_key"].to_pylist()))

    def read(info: ObjectInfo) -> PartKeys:
        keys = _read_keys(storage, info, with_rows=len(letters) > 0)
        failed_once = among(keys.rows, keys_of_letters)
        return PartKeys(keys.clips, keys.rows[failed_once], keys.created_us[failed_once])

    parts = map_parts(storage, "clips", read)
    clips = np.unique(np.concatenate([NO_IDS, *(part.clips for part in parts)]))
    standing = letters.filter(pa.array(standing_among(letters, parts)))
    return DoneSet(clips, np.unique(pack_ids(standing["row_key"].to_pylist())))


def read_clips(
    storage: Storage, columns: Sequence[str] | None = None, run_id: str | None = None
) -> pa.Table:
    """All committed clips, or those of one run; name the columns where there may be many."""
    tables = map_parts(storage, "clips", lambda info: read_part(storage, info, columns), run_id)
    if tables:
        return pa.concat_tables(tables, promote_options="default")
    empty = CLIP_FIELDS.empty_table()
    return empty if columns is None else empty.select(list(columns))


def read_dead_letters(storage: Storage, standing: bool = True) -> pa.Table:
    """Dead letters: those that stand, the latest of each row, or all that were ever written."""
    letters = read_letters(storage)
    return (
        letters.filter(pa.array(standing_dead_letters(storage, letters))) if standing else letters
    )


def standing_dead_letters(storage: Storage, letters: pa.Table) -> npt.NDArray[np.bool_]:
    """Which of all dead letters stand: the latest of each row, if no clip of it came after."""
    if not len(letters):
        return np.zeros(0, bool)
    keys = map_parts(storage, "clips", lambda info: _read_keys(storage, info, True))
    return standing_among(letters, keys)


def read_letters(storage: Storage) -> pa.Table:
    tables = map_parts(storage, "failed", lambda info: read_part(storage, info))
    return pa.concat_tables([FAILED_SCHEMA.empty_table(), *tables], promote_options="default")


def _read_keys(storage: Storage, info: ObjectInfo, with_rows: bool) -> PartKeys:
    columns = ["clip_id", "row_key", "created_at"] if with_rows else ["clip_id"]
    table = read_part(storage, info, columns)
    clips = pack_ids(table["clip_id"].to_pylist())
    if not with_rows:
        return PartKeys(clips, NO_IDS, np.empty(0, np.int64))
    rows = pack_ids(table["row_key"].to_pylist())
    return PartKeys(clips, rows, _microseconds(table["created_at"]))


def standing_among(letters: pa.Table, parts: Sequence[PartKeys]) -> npt.NDArray[np.bool_]:
    """Which letters are the latest of their row and not followed by a clip of that row."""
    rows, times = pack_ids(letters["row_key"].to_pylist()), _microseconds(letters["created_at"])
    order = np.lexsort((times, rows))
    last = np.ones(len(rows), bool)
    last[:-1] = rows[order][1:] != rows[order][:-1]
    latest = order[last]  # one letter per row, sorted by row
    settled = pc.equal(letters["stage"], SETTLED).to_numpy(zero_copy_only=False)
    keys, stands = rows[latest], ~settled[latest]
    for part in parts:
        known = among(part.rows, keys)
        at = np.searchsorted(keys, part.rows[known])
        mended = part.created_us[known] >= times[latest][at]
        stands[at[mended]] = False
    mask = np.zeros(len(rows), bool)
    mask[latest[stands]] = True
    return mask


# --- the records of runs


def write_run(storage: Storage, run_id: str, record: Mapping[str, Any]) -> None:
    """Publishes the record of a run, in the place of its earlier one."""
    data = json.dumps(record, indent=1, sort_keys=True, default=str)
    storage.put(f"runs/{run_id}.json", data.encode())


def read_runs(storage: Storage) -> list[dict[str, Any]]:
    """The records of all runs, the oldest first."""
    records = []
    for info in storage.list("runs"):
        try:
            records.append(dict(json.loads(storage.get(info.path))))
        except ValueError as error:
            raise StorageError(
                f"{storage.uri(info.path)} is not the record of a run ({error}); delete it"
            ) from error
    return records


def _microseconds(column: pa.ChunkedArray) -> Times:
    return np.asarray(column.cast(pa.int64()).combine_chunks().to_numpy(zero_copy_only=False))
