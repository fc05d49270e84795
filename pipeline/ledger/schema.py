"""The Arrow schemas of `clips/` and `failed/`, and the Parquet files that hold their rows."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.ledger.columns import CLIP_COLUMNS, FAILED_COLUMNS, SCORE_COLUMNS
from pipeline.ledger.order import ORDER_KEY, Span, order_metadata
from pipeline.ledger.settings import AudioMode

SCHEMA_VERSION = "3"
VERSION_KEY = b"musicgen_batch.schema_version"
TOKEN_KEY = b"musicgen_batch.token"
REPLACES_KEY = b"musicgen_batch.replaces"

HUGGING_FACE_KEY = b"huggingface"

AUDIO_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
# Rows with audio inside are about 1 MB: a reader should not have to hold a whole part.
ROWS_PER_GROUP_WITH_AUDIO = 32


class SchemaError(ValueError):
    """These columns can't go into this output; the message says why and the way out."""


CLIP_FIELDS = pa.schema([column.field for column in CLIP_COLUMNS])
FAILED_SCHEMA = pa.schema([column.field for column in FAILED_COLUMNS])
SCORES_SCHEMA = pa.schema([column.field for column in SCORE_COLUMNS])

# Names that no extra column of a manifest may have.
RESERVED_COLUMNS = (*CLIP_FIELDS.names, "audio")


def clip_schema(extras: pa.Schema, audio_mode: AudioMode) -> pa.Schema:
    """The columns of `clips/`: ours, the audio bytes in that mode, then the manifest's extras."""
    own = list(CLIP_FIELDS)
    metadata = {VERSION_KEY: SCHEMA_VERSION.encode()}
    if audio_mode == "parquet":
        own.append(pa.field("audio", AUDIO_TYPE))
        metadata[HUGGING_FACE_KEY] = _audio_feature(None)
    taken = {"audio", *CLIP_FIELDS.names} & set(extras.names)
    if taken:
        raise SchemaError(
            f"the manifest's extra columns {sorted(taken)} have names that clips/ uses itself; "
            "rename them in the manifest"
        )
    return pa.schema([*own, *(plain_field(field) for field in extras)], metadata)


def _audio_feature(sample_rate_hz: int | None) -> bytes:
    """What `datasets` needs to see the column as its Audio feature, with its rate where all clips
    have the same: another rate would be resampled to it."""
    rate = {} if sample_rate_hz is None else {"sampling_rate": sample_rate_hz}
    return json.dumps({"info": {"features": {"audio": {"_type": "Audio", **rate}}}}).encode()


def plain_field(field: pa.Field) -> pa.Field:
    """An extra column as it is stored: nullable, without the variants that few readers know."""
    kind = field.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_null(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        kind = pa.string()
    elif pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        kind = pa.binary()
    return pa.field(field.name, kind)


def encode_part(
    table: pa.Table,
    schema: pa.Schema,
    token: str,
    replaces: Sequence[str] = (),
    spans: Sequence[Span] = (),
) -> bytes:
    """One Parquet file, built whole in memory.

    Args:
        table: the rows, with every column of `schema`.
        schema: what the file declares; a null in a column that forbids it is a SchemaError.
        token: makes the bytes unmistakably this writer's.
        replaces: names of the parts whose rows this one takes over.
        spans: who committed which of the rows.
    """
    missing = set(schema.names) - set(table.column_names)
    empty = [
        field.name
        for field in schema
        if not field.nullable and field.name not in missing and table[field.name].null_count
    ]
    if missing or empty:
        raise SchemaError(f"a part lacks columns {sorted(missing)} or has nulls in {empty}")
    metadata = dict(schema.metadata or {}) | {TOKEN_KEY: token.encode()}
    metadata.pop(ORDER_KEY, None)
    metadata.pop(REPLACES_KEY, None)
    metadata |= order_metadata(spans)
    if replaces:
        metadata[REPLACES_KEY] = json.dumps(sorted(replaces)).encode()
    if "audio" in schema.names:
        rates = table["sample_rate_hz"].unique().to_pylist()
        metadata[HUGGING_FACE_KEY] = _audio_feature(rates[0] if len(rates) == 1 else None)
    rows = table.select(schema.names).cast(schema).replace_schema_metadata(metadata)
    group = ROWS_PER_GROUP_WITH_AUDIO if "audio" in schema.names else None
    sink = io.BytesIO()
    pq.write_table(rows, sink, compression="zstd", row_group_size=group)
    return sink.getvalue()


def open_part(source: BinaryIO) -> pq.ParquetFile:
    """A part for reading; ArrowInvalid if it is not a whole Parquet file."""
    return pq.ParquetFile(source, pre_buffer=True)


def replaced_by(part: pq.ParquetFile) -> list[str]:
    """Names of the parts that this one replaces."""
    names = (part.schema_arrow.metadata or {}).get(REPLACES_KEY)
    return list(json.loads(names)) if names else []
