"""Arrow columns as `datasets` names them in the front matter of a card (`dataset_info: features:`).

Written by hand, so that a run needs no `datasets`; a test compares the result with its own.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

_PLAIN = {
    pa.string(): "string",
    pa.large_string(): "large_string",
    pa.binary(): "binary",
    pa.bool_(): "bool",
    pa.float16(): "float16",
    pa.float32(): "float32",
    pa.float64(): "float64",
    **{getattr(pa, f"{sign}int{bits}")(): f"{sign}int{bits}"
       for sign in ("", "u") for bits in (8, 16, 32, 64)},
}  # fmt: skip


class UnnamedTypeError(ValueError):
    """The front matter has no word for this type; `datasets` then reads it from the files."""


def features_of(schema: pa.Schema, sample_rate_hz: int | None) -> list[dict[str, Any]]:
    """The features of the columns.

    Args:
        schema: the columns; `audio` is the Audio feature.
        sample_rate_hz: that of all clips, where they have one.

    Raises:
        UnnamedTypeError: a column has a type that the front matter cannot name.
    """
    return [
        audio_feature("audio", sample_rate_hz)
        if field.name == "audio"
        else {"name": field.name, **_named(field.type)}
        for field in schema
    ]


def tar_features(
    schema: pa.Schema, sample_rate_hz: int | None, audio_format: str
) -> list[dict[str, Any]]:
    """The features of tars: one for each kind of member, and what `datasets` adds.

    What is nested is left out of the member `json`: tars of version 2 hold it as text.
    """
    flat = [
        field.with_type(pa.string()) if pa.types.is_timestamp(field.type) else field
        for field in schema
        if field.name not in ("audio", "audio_path", "audio_member")
        and not pa.types.is_nested(field.type)
    ]
    return [
        audio_feature(audio_format, sample_rate_hz),
        {"name": "json", "struct": features_of(pa.schema(flat), None)},
        {"name": "txt", "dtype": "string"},
        {"name": "__key__", "dtype": "string"},
        {"name": "__url__", "dtype": "string"},
    ]


def audio_feature(name: str, sample_rate_hz: int | None) -> dict[str, Any]:
    """The Audio feature."""
    rate = {} if sample_rate_hz is None else {"sampling_rate": sample_rate_hz}
    return {"name": name, "dtype": {"audio": rate} if rate else "audio"}


def _named(kind: pa.DataType) -> dict[str, Any]:
    if kind in _PLAIN:
        return {"dtype": _PLAIN[kind]}
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind) or pa.types.is_time(kind):
        return {"dtype": _temporal(kind)}
    if pa.types.is_struct(kind):
        fields = [kind.field(at) for at in range(kind.num_fields)]
        return {"struct": [{"name": field.name, **_named(field.type)} for field in fields]}
    if pa.types.is_list(kind):
        inner = _named(kind.value_type)
        return {"list": inner["dtype"] if set(inner) == {"dtype"} else inner}
    raise UnnamedTypeError(str(kind))


def _temporal(kind: pa.DataType) -> str:
    if pa.types.is_timestamp(kind):
        return f"timestamp[{kind.unit}, tz={kind.tz}]" if kind.tz else f"timestamp[{kind.unit}]"
    if pa.types.is_date32(kind) or pa.types.is_date64(kind):
        return "date32" if pa.types.is_date32(kind) else "date64"
    raise UnnamedTypeError(str(kind))
