"""Arrow types of a manifest's columns: which a known column may have, and one per extra column."""

from collections.abc import Callable, Collection, Sequence

import pyarrow as pa
from pyarrow import types

from manifests.schema import (
    AUDIO_COLUMNS,
    BOOL_COLUMNS,
    COLUMNS,
    FLOAT_COLUMNS,
    INT_COLUMNS,
    TEXT_COLUMNS,
)

Schemas = Sequence[tuple[str, pa.Schema]]  # file, as messages name it, and its columns


def known_schema(names: Collection[str]) -> pa.Schema:
    """The Arrow types that `manifest build` writes, for those of `names` that are known."""
    kinds = dict.fromkeys(TEXT_COLUMNS, pa.string())
    kinds |= dict.fromkeys(AUDIO_COLUMNS, pa.binary())
    kinds |= dict.fromkeys(FLOAT_COLUMNS, pa.float64())
    kinds |= dict.fromkeys(INT_COLUMNS, pa.int64())
    kinds |= dict.fromkeys(BOOL_COLUMNS, pa.bool_())
    return pa.schema([(name, kinds[name]) for name in COLUMNS if name in names])


def all_names(schemas: Schemas) -> list[str]:
    """Every column of any file, as often as one file holds it."""
    counts: dict[str, int] = {}
    for _, schema in schemas:
        for name in schema.names:
            counts[name] = max(counts.get(name, 0), schema.names.count(name))
    return [name for name, count in counts.items() for _ in range(count)]


def usable_columns(schemas: Schemas) -> tuple[tuple[str, ...], list[str]]:
    """The known columns that can be read, and what is wrong with the types of the others."""
    faults = []
    broken = set()
    for source, schema in schemas:
        for field in schema:
            if field.name not in COLUMNS:
                continue
            words, fits = _expected(field.name)
            if schema.names.count(field.name) > 1:
                broken.add(field.name)
            elif not fits(plain_type(field.type)) and not types.is_null(field.type):
                broken.add(field.name)
                faults.append(
                    f"column {field.name!r} is {field.type} in {source}, must be {words}; cast it"
                )
    present = set(all_names(schemas)) - broken
    return tuple(name for name in COLUMNS if name in present), faults


def unify_extras(schemas: Schemas) -> tuple[pa.Schema, list[str]]:
    """One type per extra column; where files disagree beyond widening, a message each."""
    found: dict[str, tuple[pa.DataType, str]] = {}
    clashes = []
    for source, schema in schemas:
        for field in schema:
            if field.name in COLUMNS or schema.names.count(field.name) > 1:
                continue
            kind = plain_type(field.type)
            so_far, where = found.get(field.name, (kind, source))
            merged = wider_type(so_far, kind)
            if merged is None:
                clashes.append(
                    f"column {field.name!r} is {so_far} in {where} and {kind} in {source}; "
                    "cast one of them"
                )
            else:
                found[field.name] = (merged, where)
    return pa.schema([(name, final_type(kind)) for name, (kind, _) in found.items()]), clashes


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type without how it is encoded: what two writers of the same data agree on."""
    if types.is_dictionary(kind):
        return plain_type(kind.value_type)
    if types.is_large_string(kind) or types.is_string_view(kind):
        return pa.string()
    if types.is_large_binary(kind) or types.is_binary_view(kind):
        return pa.binary()
    return kind


def wider_type(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    """The type that holds both without changing their kind (int64 and double: double)."""
    try:
        both = [pa.schema([("x", a)]), pa.schema([("x", b)])]
        return pa.unify_schemas(both, promote_options="permissive").field("x").type
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return None


def final_type(kind: pa.DataType) -> pa.DataType:
    """A column without any value is text: a type that later values can't clash with as easily."""
    return pa.string() if types.is_null(kind) else kind


def _expected(name: str) -> tuple[str, Callable[[pa.DataType], bool]]:
    if name == "id":
        return "text or integers", lambda kind: bool(kind == pa.string() or types.is_integer(kind))
    if name in TEXT_COLUMNS:
        return "text", lambda kind: bool(kind == pa.string())
    if name in AUDIO_COLUMNS:
        return "binary, or a struct of bytes and path", _is_audio
    if name in BOOL_COLUMNS:
        return "booleans", lambda kind: bool(types.is_boolean(kind))
    return "numbers", _is_number


def _is_number(kind: pa.DataType) -> bool:
    return bool(types.is_integer(kind) or types.is_float32(kind) or types.is_float64(kind))


def _is_audio(kind: pa.DataType) -> bool:
    if types.is_struct(kind):
        fields = {kind.field(i).name: kind.field(i).type for i in range(kind.num_fields)}
        bytes_kind, path_kind = fields.pop("bytes", pa.null()), fields.pop("path", pa.null())
        return (
            not fields
            and plain_type(bytes_kind) in (pa.binary(), pa.null())
            and plain_type(path_kind) in (pa.string(), pa.null())
        )
    return bool(plain_type(kind) == pa.binary())
