"""Small made-up outputs for the tests of the ledger and its upkeep."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from pipeline.ledger import (
    FAILED_SCHEMA,
    DoneSet,
    clip_schema,
    list_parts,
    write_clip_part,
    write_dead_letter_part,
)
from pipeline.ledger.order import UNKNOWN, spans_of
from pipeline.ledger.part_index import read_standing
from pipeline.ledger.parts import read_part
from pipeline.ledger.schema import VERSION_KEY, encode_part
from pipeline.ledger.settings import AudioMode
from pipeline.storage import Storage

RUN = "20260101T000000-abcdef"
TORN = f"part-{RUN}-ffffff-000000.parquet"
MIDNIGHT = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
TYPICAL: dict[pa.DataType, Any] = {
    pa.string(): "x",
    pa.int32(): 1,
    pa.int64(): 1,
    pa.float64(): 0.5,
    pa.bool_(): True,
}


def hex_id(name: object) -> str:
    """32 hex digits that stand for `name`, as clip ids and row keys are."""
    return hashlib.blake2b(str(name).encode(), digest_size=16).hexdigest()


def at(second: float) -> dt.datetime:
    """A moment of the made-up day."""
    return MIDNIGHT + dt.timedelta(seconds=second)


def audio_of(clip_id: str) -> bytes:
    """What a clip sounds like, so to speak."""
    return f"audio of {clip_id} ".encode() * 50


def clip(name: object, second: float = 0, row: object = None, **values: Any) -> dict[str, Any]:
    """A row of `clips/` whose clip_id, row and audio follow from `name`."""
    clip_id = hex_id(name)
    data = audio_of(clip_id)
    digest = hashlib.sha256(data).hexdigest()
    typical = {
        field.name: None if field.nullable else TYPICAL.get(field.type)
        for field in clip_schema(pa.schema([]), "files")
    } | {"references": {"melody": "blake2b:00"}, "versions": {"torch": "2.14.1"}}
    return typical | {
        "clip_id": clip_id,
        "row_key": hex_id(f"row {name if row is None else row}"),
        "id": str(name if row is None else row),
        "take": 0,
        "audio_path": f"audio/{clip_id[:2]}/{clip_id}-{digest[:8]}.flac",
        "audio_bytes": len(data),
        "audio_sha256": digest,
        "created_at": at(second),
        **values,
    }


def letter(row: object, second: float = 0, **values: Any) -> dict[str, Any]:
    """A row of `failed/`."""
    typical = {
        field.name: None if field.nullable else TYPICAL.get(field.type) for field in FAILED_SCHEMA
    }
    return typical | {"row_key": hex_id(f"row {row}"), "created_at": at(second), **values}


def committed_ids(storage: Storage) -> DoneSet:
    """What a run that begins now finds to be done."""
    return read_standing(storage).known


def commit(
    storage: Storage,
    rows: Sequence[dict[str, Any]],
    seq: int,
    *,
    replica: str = "aaaaaa",
    run_id: str = RUN,
    mode: AudioMode = "files",
    extras: pa.Schema | None = None,
    generation: int = UNKNOWN,
) -> str:
    """Publish clips as a replica does: audio first, then the part."""
    if mode == "files":
        storage.put_many({row["audio_path"]: audio_of(row["clip_id"]) for row in rows})
    schema = clip_schema(extras or pa.schema([]), mode)
    table = pa.Table.from_pylist([*rows], schema=schema)
    return write_clip_part(storage, table, run_id, replica, seq, generation)


def fail(
    storage: Storage,
    rows: Sequence[dict[str, Any]],
    seq: int,
    replica: str = "aaaaaa",
    *,
    run_id: str = RUN,
    generation: int = UNKNOWN,
) -> str:
    """Publish dead letters."""
    table = pa.Table.from_pylist([*rows], schema=FAILED_SCHEMA)
    return write_dead_letter_part(storage, table, run_id, replica, seq, generation)


def as_version_2(storage: Storage) -> None:
    """Turns the parts of an output into what schema version 2 wrote: JSON text in place of structs.

    The names of packages had hyphens there, and roles that a row did not use were left out.
    """
    for info in list_parts(storage, "clips"):
        table = read_part(storage, info)
        for name in ("references", "versions"):
            texts = [
                json.dumps({key.replace("_", "-"): value for key, value in row.items() if value})
                for row in table[name].to_pylist()
            ]
            at = table.column_names.index(name)
            table = table.set_column(at, pa.field(name, pa.string(), False), pa.array(texts))
        metadata = {**table.schema.metadata, VERSION_KEY: b"2"}
        spans = spans_of(table)
        data = encode_part(table, table.schema.with_metadata(metadata), "token", spans=spans)
        storage.put(info.path, data)
