"""The columns of `clips/` and `failed/`, and the Parquet files that hold them."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.ledger.settings import AudioMode

SCHEMA_VERSION = "2"
VERSION_KEY = b"musicgen_batch.schema_version"
TOKEN_KEY = b"musicgen_batch.token"
REPLACES_KEY = b"musicgen_batch.replaces"

TIMESTAMP = pa.timestamp("us", tz="UTC")
AUDIO_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
# What Hugging Face `datasets` needs to see the column as its Audio feature.
HUGGING_FACE_AUDIO = {"info": {"features": {"audio": {"_type": "Audio"}}}}
# Rows with audio inside are about 1 MB: a reader should not have to hold a whole part.
ROWS_PER_GROUP_WITH_AUDIO = 32


class SchemaError(ValueError):
    """These columns can't go into this output; the message says why and the way out."""


def _columns(spec: Mapping[str, pa.DataType], nullable: Sequence[str]) -> pa.Schema:
    return pa.schema([pa.field(name, kind, name in nullable) for name, kind in spec.items()])


CLIP_FIELDS = _columns(
    {
        "clip_id": pa.string(),
        "row_key": pa.string(),
        "id": pa.string(),
        "take": pa.int32(),
        "prompt": pa.string(),
        "duration_s": pa.float64(),
        "n_frames": pa.int32(),
        "n_samples": pa.int64(),
        "sample_rate_hz": pa.int32(),
        "channels": pa.int32(),
        "melody_uri": pa.string(),
        "continuation_uri": pa.string(),
        "style_uri": pa.string(),
        "references": pa.string(),
        "seed": pa.int64(),
        "seed_used": pa.int64(),
        "retake": pa.int32(),
        "cfg_coef": pa.float64(),
        "cfg_coef_beta": pa.float64(),
        "temperature": pa.float64(),
        "top_k": pa.int32(),
        "top_p": pa.float64(),
        "use_sampling": pa.bool_(),
        "extend_stride_s": pa.float64(),
        "style_eval_q": pa.int32(),
        "style_excerpt_s": pa.float64(),
        "separation": pa.string(),
        "audio_path": pa.string(),
        "audio_member": pa.string(),
        "audio_format": pa.string(),
        "audio_bytes": pa.int64(),
        "audio_sha256": pa.string(),
        "normalize_applied": pa.string(),
        "gain_db": pa.float64(),
        "true_peak_limited": pa.bool_(),
        "qc_failed": pa.string(),
        "peak_dbfs": pa.float64(),
        "true_peak_dbtp": pa.float64(),
        "rms_dbfs": pa.float64(),
        "loudness_lufs": pa.float64(),
        "loudness_reason": pa.string(),
        "silence_ratio": pa.float64(),
        "early_silence_s": pa.float64(),
        "clip_ratio": pa.float64(),
        "dc_offset": pa.float64(),
        "spectral_flatness": pa.float64(),
        "model": pa.string(),
        "weights_hash": pa.string(),
        "weights_revision": pa.string(),
        "weights_licence": pa.string(),
        "dtype": pa.string(),
        "device": pa.string(),
        "threads": pa.int32(),
        "engine_rows": pa.int32(),
        "versions": pa.string(),
        "ai_generated": pa.bool_(),
        "run_id": pa.string(),
        "replica": pa.string(),
        "attempts": pa.int32(),
        "created_at": TIMESTAMP,
    },
    nullable=(
        *("prompt", "melody_uri", "continuation_uri", "style_uri", "seed", "cfg_coef_beta"),
        *("extend_stride_s", "style_eval_q", "style_excerpt_s", "separation"),
        *("audio_path", "audio_member", "qc_failed", "loudness_lufs", "loudness_reason"),
        "weights_revision",
    ),
)

# Names that no extra column of a manifest may have.
RESERVED_COLUMNS = (*CLIP_FIELDS.names, "audio")

FAILED_SCHEMA = _columns(
    {
        "row_key": pa.string(),
        "clip_id": pa.string(),
        "id": pa.string(),
        "take": pa.int32(),
        "row": pa.int64(),
        "source": pa.string(),
        "stage": pa.string(),
        "error_class": pa.string(),
        "message": pa.string(),
        "attempts": pa.int32(),
        "run_id": pa.string(),
        "created_at": TIMESTAMP,
        "row_json": pa.string(),
    },
    nullable=("clip_id", "id", "take"),
)


def clip_schema(extras: pa.Schema, audio_mode: AudioMode) -> pa.Schema:
    """The columns of `clips/`: ours, the audio bytes in that mode, then the manifest's extras."""
    own = list(CLIP_FIELDS)
    metadata = {VERSION_KEY: SCHEMA_VERSION.encode()}
    if audio_mode == "parquet":
        own.append(pa.field("audio", AUDIO_TYPE))
        metadata[b"huggingface"] = json.dumps(HUGGING_FACE_AUDIO).encode()
    taken = {"audio", *CLIP_FIELDS.names} & set(extras.names)
    if taken:
        raise SchemaError(
            f"the manifest's extra columns {sorted(taken)} have names that clips/ uses itself; "
            "rename them in the manifest"
        )
    return pa.schema([*own, *(plain_field(field) for field in extras)], metadata)


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
    table: pa.Table, schema: pa.Schema, token: str, replaces: Sequence[str] = ()
) -> bytes:
    """One Parquet file, built whole in memory.

    Args:
        table: the rows, with every column of `schema`.
        schema: what the file declares; a null in a column that forbids it is a SchemaError.
        token: makes the bytes unmistakably this writer's.
        replaces: names of the parts whose rows this one takes over.
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
    if replaces:
        metadata[REPLACES_KEY] = json.dumps(sorted(replaces)).encode()
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
