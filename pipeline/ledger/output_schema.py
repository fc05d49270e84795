"""The columns of an output: those of all its parts together, and whether a run's fit into them.

A later manifest may bring new extra columns; in parts that were written before they are null.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from pipeline.ledger.migrate import MIGRATED, upgraded_schema, version_of
from pipeline.ledger.names import part_name
from pipeline.ledger.parts import list_parts, on_steady_listing, reading
from pipeline.ledger.schema import (
    CLIP_FIELDS,
    SCHEMA_VERSION,
    SchemaError,
    clip_schema,
    plain_field,
)
from pipeline.ledger.settings import AudioMode
from pipeline.storage import THREADS, ObjectInfo, Storage

logger = logging.getLogger(__name__)

_OWN = frozenset({*CLIP_FIELDS.names, "audio"})


def standing_schema(storage: Storage, *, migrate: bool = False) -> pa.Schema | None:
    """The schema of all parts in `clips/` together; None where there is none yet.

    Args:
        storage: root of the output.
        migrate: parts of version 2 count as if they were of this version.

    Raises:
        SchemaError: another version of this program wrote them, with other columns.
    """

    def read() -> list[pa.Schema]:
        # All parts of one process have the same columns.
        writers: dict[tuple[str, str], ObjectInfo] = {}
        for info in list_parts(storage, "clips"):
            if name := part_name(info.path):
                writers.setdefault((name.run_id, name.replica), info)
        with ThreadPoolExecutor(THREADS) as pool:
            return list(pool.map(lambda info: _schema_of(storage, info, migrate), writers.values()))

    schemas = on_steady_listing(read)
    return unified(storage.uri("clips"), schemas) if schemas else None


def unified(where: str, schemas: Iterable[pa.Schema]) -> pa.Schema:
    """One schema for parts whose extra columns differ: each column where it appeared first.

    Raises:
        SchemaError: a column has two types, or only some of the parts hold audio.
    """
    schemas = list(schemas)
    extras: dict[str, pa.Field] = {}
    for schema in schemas:
        for field in schema:
            if field.name in _OWN:
                continue
            known = extras.setdefault(field.name, field)
            if known.type != field.type:
                raise SchemaError(
                    f"{where} has parts in which the extra column {field.name} is {known.type} and "
                    f"others in which it is {field.type}: parts of two outputs were put together; "
                    "keep them in two outputs"
                )
    inside = {_mode_of(schema) for schema in schemas}
    if len(inside) > 1:
        raise SchemaError(f"{where} has parts with and without audio; keep them in two outputs")
    return clip_schema(pa.schema(list(extras.values())), inside.pop())


def check_schema(
    storage: Storage,
    extras: pa.Schema,
    audio_mode: AudioMode,
    on_message: Callable[[str], None] = logger.info,
) -> pa.Schema:
    """The schema to write with: that of the parts that stand, and the new columns of this run.

    Args:
        storage: root of the output.
        extras: the extra columns of this run's manifest.
        audio_mode: where this run puts the audio.
        on_message: receives a sentence where a column is new.

    Raises:
        SchemaError: a column has another type than before, or the audio another place.
    """
    standing = standing_schema(storage)
    if standing is None:
        return clip_schema(extras, audio_mode)
    where = storage.uri("clips")
    if _mode_of(standing) != audio_mode and "parquet" in (_mode_of(standing), audio_mode):
        raise SchemaError(
            f"{where} was begun with audio {'inside' if 'audio' in standing.names else 'beside'} "
            f"the Parquet parts, which --audio {audio_mode} would mix; use the same mode as before "
            "or a new --output"
        )
    fixed = {field.name: field for field in standing if field.name not in _OWN}
    _refuse_other_types(where, fixed, extras)
    new = [field for field in extras if field.name not in fixed]
    if new:
        names = ", ".join(field.name for field in new)
        on_message(
            f"new {'column' if len(new) == 1 else 'columns'} {names}: null in the clips that "
            "stand; for readers that expect the same columns in every part, run "
            "`musicgen-batch compact` afterwards"
        )
    return clip_schema(pa.schema([*fixed.values(), *new]), audio_mode)


def with_all_columns(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """A part's rows with the columns of `schema`, null where the part lacks one of them."""
    for field in schema:
        if field.name not in table.column_names:
            table = table.append_column(field, pa.nulls(len(table), field.type))
    return table.select(schema.names)


def _refuse_other_types(where: str, fixed: Mapping[str, pa.Field], extras: pa.Schema) -> None:
    for field in extras:
        if field.name not in fixed or pa.types.is_null(field.type):
            continue
        kind, expected = plain_field(field).type, fixed[field.name].type
        if kind != expected:
            raise SchemaError(
                f"the extra column {field.name} is {kind} in the manifest, {expected} in {where}, "
                f"and a column has one type: cast it to {expected} in the manifest, or give it a "
                "new name there (a new column is null for the clips that stand), or write to a "
                "new --output"
            )


def _mode_of(schema: pa.Schema) -> AudioMode:
    """`files` stands for tars too: the columns are the same."""
    return "parquet" if "audio" in schema.names else "files"


def _schema_of(storage: Storage, info: ObjectInfo, migrate: bool) -> pa.Schema:
    with reading(storage, info) as part:
        found: pa.Schema = part.schema_arrow
    if migrate:
        found = upgraded_schema(found)
    version = version_of(found)
    if version == SCHEMA_VERSION:
        return found
    what = f"{storage.uri('clips')} has schema version {version}, this program"
    if version == MIGRATED:
        raise SchemaError(
            f"{what} writes {SCHEMA_VERSION}; `musicgen-batch compact` with this --output writes "
            "the parts anew in it, clips and audio stay, and then this run goes on"
        )
    raise SchemaError(
        f"{what} reads and writes {SCHEMA_VERSION}; write to a new --output, or go on with the "
        "program that began it"
    )
