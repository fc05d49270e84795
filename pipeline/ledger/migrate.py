"""Rows of earlier schema versions as this version has them.

Version 2 held `references` and `versions` as JSON text; since version 3 they are structs. `compact`
writes parts of version 2 anew, and readers turn their rows as they read them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import pyarrow as pa

from pipeline.ledger.columns import CLIP_COLUMNS, field_of_package
from pipeline.ledger.schema import SCHEMA_VERSION, VERSION_KEY, SchemaError

MIGRATED = "2"
"""the one earlier version whose parts can be read and migrated"""
_STRUCTS = {column.name: column.type for column in CLIP_COLUMNS if pa.types.is_struct(column.type)}


def version_of(schema: pa.Schema) -> str:
    """The schema version of a part of `clips/`; `none` where it names none."""
    return str((schema.metadata or {}).get(VERSION_KEY, b"none").decode())


def upgraded_schema(schema: pa.Schema) -> pa.Schema:
    """The schema of a part of version 2 in this version; any other as it is."""
    if version_of(schema) != MIGRATED:
        return schema
    for name in _STRUCTS:
        if name in schema.names:
            at = schema.get_field_index(name)
            schema = schema.set(at, schema.field(at).with_type(_STRUCTS[name]))
    return schema.with_metadata(dict(schema.metadata) | {VERSION_KEY: SCHEMA_VERSION.encode()})


def upgraded(table: pa.Table) -> pa.Table:
    """The rows of a part of version 2 in this version, some of their columns or all; any others as
    they are."""
    if version_of(table.schema) != MIGRATED:
        return table
    schema = upgraded_schema(table.schema)
    columns = [
        pa.chunked_array([_structs(name, table[name].to_pylist())])
        if name in _STRUCTS
        else table[name]
        for name in table.column_names
    ]
    return pa.table(columns, schema=schema)


def _structs(name: str, texts: Sequence[str]) -> pa.Array:
    kind = _STRUCTS[name]
    known = {kind.field(at).name for at in range(kind.num_fields)}
    rows = [{field_of_package(key): value for key, value in json.loads(t).items()} for t in texts]
    unknown = sorted(set().union(*rows) - known)
    if unknown:
        raise SchemaError(
            f"the column {name} of a part of schema version {MIGRATED} names {unknown}, which this "
            f"program does not know ({sorted(known)}): go on with the program that wrote it"
        )
    return pa.array(rows, kind)
