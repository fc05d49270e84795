"""The columns that the page knows: what they are called, and how the index holds them.

In the index a column is named by its place (`c0`, `c1`, ...). So no name of a manifest's column
becomes a part of an SQL text, and names that differ in case alone stay apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from pipeline.audio.measures_table import MEASURES
from pipeline.audio.scores.table import COLUMN
from pipeline.ledger.columns import CLIP_COLUMNS

Kind = Literal["text", "number", "flag", "time"]
Group = Literal["clip", "measure", "extra", "provenance"]
SQL_TYPES: dict[Kind, str] = {
    "text": "VARCHAR",
    "number": "DOUBLE",
    "flag": "BOOLEAN",
    "time": "TIMESTAMP",
}
RATING = ":rating"  # no column of a manifest can have that name
RATING_SQL = "rating"

_LABELS = {
    "id": "Row",
    "take": "Take",
    "prompt": "Prompt",
    "duration_s": "Duration",
    "audio_bytes": "File size",
    "audio_format": "Format",
    "created_at": "Made at",
    "qc_failed": "Failed checks",
    "seed_used": "Seed used",
    "sample_rate_hz": "Sample rate",
    "gain_db": "Gain",
    "run_id": "Run",
}
_OF_THE_CLIP = ("id", "take", "prompt", "duration_s", "created_at", "qc_failed")
_OWN = {column.name: column for column in CLIP_COLUMNS}


@dataclass(frozen=True)
class PageColumn:
    """One column.

    Attributes:
        name: As in `clips/`, or RATING.
        label: For people.
        unit: Of a number that has one.
        text: What it holds.
        kind: How it is compared.
        group: Where it stands in lists of columns.
        sql: Its name in the index.
        sql_type: Its type there.
    """

    name: str
    label: str
    unit: str
    text: str
    kind: Kind
    group: Group
    sql: str
    sql_type: str

    def described(self) -> dict[str, str]:
        """What the page must know of it."""
        names = ("name", "label", "unit", "text", "kind", "group")
        return {name: getattr(self, name) for name in names}


RATING_COLUMN = PageColumn(
    RATING,
    "Rating",
    "",
    "Your rating, 1 to 5; it stands in ratings/, not in the parts.",
    "number",
    "clip",
    RATING_SQL,
    "TINYINT",
)


def page_column(field: pa.Field, place: int) -> PageColumn | None:
    """A column of `clips/` for the page; None for one that it does not show (binary data)."""
    if pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type):
        return None
    kind, sql_type = _kind_of(field.type)
    own, measure = _OWN.get(field.name), MEASURES.get(field.name)
    unit = own.unit if own is not None else ""
    group: Group = "provenance"
    if measure is not None or field.name.startswith(COLUMN):
        group = "measure"
    elif own is None:
        group = "extra"
    elif field.name in _OF_THE_CLIP:
        group = "clip"
    label = measure.label if measure else _LABELS.get(field.name, field.name)
    if field.name.startswith(COLUMN):
        label = f"Score: {field.name.removeprefix(COLUMN)}"
    text = own.text if own is not None else "A column of the manifest."
    return PageColumn(field.name, label, unit, text, kind, group, f"c{place}", sql_type)


def _kind_of(kind: pa.DataType) -> tuple[Kind, str]:
    """How the page compares a column, and its type in the index; nested values become JSON."""
    if pa.types.is_boolean(kind):
        return "flag", "BOOLEAN"
    if pa.types.is_integer(kind):
        return "number", "UBIGINT" if pa.types.is_uint64(kind) else "BIGINT"
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "number", "DOUBLE"
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return "time", "TIMESTAMP"
    return "text", "VARCHAR"
