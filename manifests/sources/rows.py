"""One row of any source of `manifest build`, not yet checked."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, NamedTuple

import pyarrow as pa

from manifests.schema import (
    BOOL_COLUMNS,
    COLUMNS,
    FLOAT_COLUMNS,
    INT_COLUMNS,
    PromptRow,
    RowIssue,
    parse_row,
)

_INTEGER = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_BOOLEANS = {"true": True, "false": False, "1": True, "0": False}
# Of extra columns that are written as text: the first form that all values have.
_TEXT_TYPES: tuple[tuple[pa.DataType, re.Pattern[str], Callable[[str], Any]], ...] = (
    (pa.int64(), re.compile(r"-?(0|[1-9][0-9]{0,17})"), int),
    (pa.float64(), re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?"), float),
    (pa.bool_(), re.compile(r"true|false|True|False|TRUE|FALSE"), lambda s: s.lower() == "true"),
)
Broken = tuple[str, str, str]  # what stands there (shortened), rule, way out


class Cell(NamedTuple):
    """A value of an extra column where its file has it: no Python value can hold each of them."""

    column: pa.Array
    place: int

    def as_py(self) -> Any:
        """The Python value; None where there is none that can hold it."""
        try:
            return self.column[self.place].as_py()
        except (ValueError, OverflowError, pa.ArrowException):
            return None

    def __repr__(self) -> str:
        value = self.as_py()
        return str(self.column.slice(self.place, 1)) if value is None else repr(value)


@dataclass(frozen=True)
class SourceRow:
    """One row, as its source has it."""

    source: str  # the file as messages name it
    row: int  # 0-based over all files, blank lines not counted
    line: int | None  # 1-based, where the row begins; None where the source has no lines
    raw: dict[str, Any]  # values of extra columns of Arrow files are Cells
    base_uri: str  # what relative references count from
    is_text: bool = False  # then the extra columns are still text
    broken: Broken | None = None  # the row could not be taken apart

    def parse(self) -> tuple[PromptRow | None, list[RowIssue]]:
        """`parse_row`, or the row's own fault."""
        if self.broken is None:
            return parse_row(self.raw, source=self.source, row=self.row, line=self.line)
        value, rule, way_out = self.broken
        return None, [RowIssue(self.source, self.row, None, None, value, rule, way_out, self.line)]

    def with_raw(self, raw: dict[str, Any]) -> "SourceRow":
        """The same row with other values."""
        return replace(self, raw=raw)


def typed(name: str, field: str) -> Any:
    """A field of text as its column's type; as text where it is none, for `parse_row` to say so."""
    if name not in COLUMNS:
        return field or None
    text = field.strip()
    if name in (*FLOAT_COLUMNS, *INT_COLUMNS):
        if name in INT_COLUMNS and _INTEGER.fullmatch(text) and len(text) <= 30:
            return int(text)
        if _NUMBER.fullmatch(text) or text.casefold() in ("nan", "inf", "-inf"):
            return float(text)
    if name in BOOL_COLUMNS:
        return _BOOLEANS.get(text.casefold(), field)
    return field


def text_type(value: str | None) -> pa.DataType:
    """The narrowest type of a value that is written as text."""
    if value is None:
        return pa.null()
    return next((kind for kind, form, _ in _TEXT_TYPES if form.fullmatch(value)), pa.string())


def as_type(value: str, kind: pa.DataType) -> Any:
    """A value that is written as text, as one of those types; else the text."""
    return next((convert(value) for known, _, convert in _TEXT_TYPES if known == kind), value)


def arrow_column(values: Sequence[Any], kind: pa.DataType) -> pa.Array | pa.ChunkedArray:
    """A column of cells, Python values and nulls."""
    if not any(isinstance(value, Cell) for value in values):
        return pa.array(values, kind)
    pieces = []
    for _, group in groupby(values, lambda value: id(value[0]) if isinstance(value, Cell) else 0):
        run = list(group)
        piece = _piece(run) if isinstance(run[0], Cell) else pa.array(run, kind)
        pieces.append(piece if piece.type == kind else piece.cast(kind))
    return pa.chunked_array(pieces, kind)


def _piece(cells: list[Cell]) -> pa.Array:
    """Cells of one column as an array."""
    column, first = cells[0]
    if cells[-1].place - first == len(cells) - 1:  # rows are in order, so nothing lies between
        return column.slice(first, len(cells))
    return column.take(pa.array([cell.place for cell in cells]))


def narrowest(values: Iterable[str]) -> Callable[[str], Any]:
    """What turns texts into the narrowest type that all of them have."""
    texts = list(values)
    for _, form, convert in _TEXT_TYPES:
        if all(form.fullmatch(text) for text in texts):
            return convert
    return str
