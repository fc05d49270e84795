"""What the page may ask of the index, and the SQL for it: known columns, values as parameters."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pipeline.dataset.browse.columns import PageColumn

Operator = Literal["contains", "lacks", "is", "is_not", "at_least", "at_most", "empty", "filled"]
MOST_ROWS = 200
MOST_FILTERS = 20
MOST_TEXT = 1000
NEEDS_NO_VALUE = ("empty", "filled")
SEARCHED = ("prompt", "id")
TIES = ("id", "take", "clip_id")  # what stands together where the sorted column does not decide


class QueryError(ValueError):
    """A query that can't be asked; the message says why."""


class Filter(BaseModel):
    """One condition on one column."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    column: str = Field(max_length=MOST_TEXT)
    op: Operator
    value: str | None = Field(None, max_length=MOST_TEXT)


class Query(BaseModel):
    """Which clips are asked for, in which order."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    search: str = Field("", max_length=MOST_TEXT)
    filters: tuple[Filter, ...] = Field((), max_length=MOST_FILTERS)
    sort: str = Field("created_at", max_length=MOST_TEXT)
    descending: bool = True
    offset: int = Field(0, ge=0, le=2**40)
    limit: int = Field(50, ge=1, le=MOST_ROWS)
    columns: tuple[str, ...] = Field((), max_length=100)


class Sql:
    """Conditions with their parameters.

    Args:
        columns: The known columns by name.
    """

    def __init__(self, columns: Mapping[str, PageColumn]) -> None:
        self._columns = columns
        self.conditions: list[str] = []
        self.values: list[Any] = []

    @property
    def where(self) -> str:
        """The WHERE clause; empty where there is no condition."""
        return " WHERE " + " AND ".join(self.conditions) if self.conditions else ""

    def column(self, name: str) -> PageColumn:
        """A known column; QueryError for any other name."""
        found = self._columns.get(name)
        if found is None:
            raise QueryError(f"there is no column {name[:80]!r} in this output")
        return found

    def add_search(self, text: str) -> None:
        """Every word must stand in the prompt or in the id."""
        searched = [self._columns[name].sql for name in SEARCHED if name in self._columns]
        for word in text.casefold().split():
            either = " OR ".join(f"contains(lower({sql}), lower(?))" for sql in searched)
            self._add(f"({either})" if either else "false", *[word] * len(searched))

    def add_filter(self, wanted: Filter) -> None:
        """One condition of the page."""
        column = self.column(wanted.column)
        sql, op = column.sql, wanted.op
        if op in NEEDS_NO_VALUE:
            is_empty = f"{sql} IS NULL" + (f" OR {sql} = ''" if column.kind == "text" else "")
            self._add(f"({is_empty})" if op == "empty" else f"NOT ({is_empty})")
            return
        if wanted.value is None:
            raise QueryError(f"the filter on {column.label} has no value")
        if op in ("contains", "lacks"):
            found = f"contains(lower({sql}::VARCHAR), lower(?))"
            self._add(found if op == "contains" else f"NOT coalesce({found}, false)", wanted.value)
            return
        sign = {"is": "=", "is_not": "IS DISTINCT FROM", "at_least": ">=", "at_most": "<="}[op]
        self._add(f"{sql} {sign} ?", _value_of(column, wanted.value))

    def order(self, name: str, descending: bool) -> str:
        """The ORDER BY clause; rows without a value come last."""
        first = self.column(name)
        direction = "DESC" if descending else "ASC"
        ties = [self._columns[tie].sql for tie in TIES if tie in self._columns and tie != name]
        return f" ORDER BY {', '.join([f'{first.sql} {direction} NULLS LAST', *ties])}"

    def _add(self, condition: str, *values: Any) -> None:
        self.conditions.append(condition)
        self.values += values


def compile_query(query: Query, columns: Mapping[str, PageColumn]) -> Sql:
    """The conditions of a query; QueryError where it names what is not there."""
    sql = Sql(columns)
    sql.add_search(query.search)
    for wanted in query.filters:
        sql.add_filter(wanted)
    return sql


def _value_of(column: PageColumn, text: str) -> str | float | int | bool | datetime:
    """The text of a filter as a value of its column."""
    try:
        if column.kind == "number":
            return _number(text)
        if column.kind == "flag":
            return {"true": True, "false": False}[text.strip().casefold()]
        if column.kind == "time":
            moment = datetime.fromisoformat(text.strip())
            return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment
    except (ValueError, KeyError):
        expected = {
            "number": "a number",
            "flag": "true or false",
            "time": "a date or a time such as 2026-01-31 or 2026-01-31T12:00 (UTC)",
        }[column.kind]
        raise QueryError(f"{column.label}: {text[:80]!r} is not {expected}") from None
    return text


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text.strip().replace("−", "-"))
