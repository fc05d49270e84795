"""Sweeps: every combination of some values becomes a row, or a drawn sample of them.

A combination's id is made of its own values, so it stays the same whatever else is in the sweep.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from pathlib import Path
from string import Formatter
from typing import Any

from manifests.identity import row_id
from manifests.messages import shorten
from manifests.reader import ManifestError
from manifests.schema import COLUMNS
from manifests.sources.rows import Cell, SourceRow, narrowest, typed

MOST_ROWS = 10_000_000
_MOST_ID, _MOST_WORD = 200, 40
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
RowsOf = Callable[[], Iterator[SourceRow]]


@dataclass(frozen=True)
class Sweep:
    """What is combined; `make_sweep` makes it of flags and checks it.

    Attributes:
        axes: Name of a column to its values, as they were written.
        template: The prompt, with the names of columns in braces.
        sample: How many combinations are drawn; None: all.
        seed: Decides which.
    """

    axes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    template: str | None = None
    sample: int | None = None
    seed: int = 0

    @property
    def size(self) -> int:
        """Combinations of all values."""
        return prod(len(values) for values in self.axes.values())

    def over(self, rows_of: RowsOf | None) -> "SweptRows":
        """The sweep over each of some rows; None: over one empty row.

        Raises:
            ManifestError: More rows would come of it than a manifest may have.
        """
        n_rows = sum(1 for _ in rows_of()) if rows_of else 1
        total, notes = n_rows * self.size, []
        if self.sample is None and total > MOST_ROWS:
            raise ManifestError(
                f"the sweep has {total} combinations, over the limit of {MOST_ROWS}; take values "
                "away, or draw some with --sample N"
            )
        if self.sample is not None and self.sample > total:
            notes.append(f"--sample {self.sample}: there are {total} combinations, all are taken")
        return SweptRows(self, rows_of or _one_empty_row, total, tuple(notes))

    def combination(self, number: int) -> dict[str, str]:
        """The values of one combination; the last axis changes first."""
        values: dict[str, str] = {}
        for name in reversed(list(self.axes)):
            number, index = divmod(number, len(self.axes[name]))
            values[name] = self.axes[name][index]
        return {name: values[name] for name in self.axes}

    def row(self, base: SourceRow, number: int, row: int) -> SourceRow:
        """A row with the values of a combination.

        Args:
            base: The row that is swept.
            number: The combination.
            row: Number of the new row.
        """
        if base.broken is not None:
            return replace(base, row=row)
        values = self.combination(number)
        raw, broken = dict(base.raw), None
        raw |= {name: self._typed(name, value) for name, value in values.items()}
        if self.template is not None:
            words = {**_words_of(base.raw), **values}
            lacking = [name for name in fields_of(self.template) if not words.get(name)]
            if lacking:
                rule = f"needs a value for {lacking[0]}, which this row does not have"
                way_out = f"fill the column, or give --matrix or --wordlist for {lacking[0]}"
                broken = (f"the template {shorten(self.template)}", rule, way_out)
            else:
                raw["prompt"] = self.template.format_map(words)
        if values:
            raw["id"] = _id(base, values)
        return replace(base, row=row, raw=raw, broken=broken)

    def _typed(self, name: str, value: str) -> Any:
        """A value as its column's type; an extra column's follows from all values of its axis."""
        return typed(name, value) if name in COLUMNS else self._kinds[name](value)

    @cached_property
    def _kinds(self) -> dict[str, Callable[[str], Any]]:
        return {name: narrowest(values) for name, values in self.axes.items()}


@dataclass(frozen=True)
class SweptRows:
    """The rows of a sweep, which can be gone over any number of times."""

    sweep: Sweep
    rows_of: RowsOf
    total: int
    notes: tuple[str, ...]

    def rows(self) -> Iterator[SourceRow]:
        """One row for each combination that is taken, numbered from 0."""
        sample, size = self.sweep.sample, self.sweep.size
        taken: Iterable[int] = range(self.total)
        if sample is not None and sample < self.total:
            taken = draw(self.total, sample, self.sweep.seed)
        numbers = iter(taken)
        combination, row = next(numbers, None), 0
        for position, base in enumerate(self.rows_of()):
            while combination is not None and combination // size == position:
                yield self.sweep.row(base, combination % size, row)
                combination, row = next(numbers, None), row + 1


def draw(total: int, count: int, seed: int) -> list[int]:
    """`count` different numbers below `total`, ascending; the same ones for ever."""
    if count * 2 > total:
        left_out = set(_draws(total, total - count, seed))
        return [number for number in range(total) if number not in left_out]
    return sorted(_draws(total, count, seed))


def _draws(total: int, count: int, seed: int) -> list[int]:
    drawn: dict[int, None] = {}
    position = 0
    while len(drawn) < count:
        digest = hashlib.sha256(f"{seed} {position}".encode()).digest()
        drawn[int.from_bytes(digest, "big") % total] = None
        position += 1
    return list(drawn)


def _one_empty_row() -> Iterator[SourceRow]:
    yield SourceRow("sweep", 0, None, {}, str(Path.cwd() / "sweep"))


def _words_of(raw: Mapping[str, Any]) -> dict[str, str]:
    """The values of a row that a template can take, as text."""
    plain = {
        name: value.as_py() if isinstance(value, Cell) else value for name, value in raw.items()
    }
    return {
        name: f"{value:g}" if isinstance(value, float) else str(value)
        for name, value in plain.items()
        if isinstance(value, str | int | float) and str(value).strip()
    }


def _id(base: SourceRow, values: Mapping[str, str]) -> str:
    """`bpm-120_genre-jazz`, after the id of the row that is swept, if there is one.

    The values stand in the order of their names, so that the order of flags changes no id.
    """
    pieces = [f"{name}-{word(name, values[name])}" for name in sorted(values)]
    own = base.raw.get("id")
    if own is not None and str(own).strip():
        pieces.insert(0, str(own))
    elif base.raw:
        content = {name: repr(value) for name, value in base.raw.items() if value is not None}
        pieces.insert(0, row_id(content)[:8])
    text = "_".join(pieces)
    if len(text) <= _MOST_ID:
        return text
    return f"{text[: _MOST_ID - 9]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def word(name: str, value: str) -> str:
    """A value as ids show it; where that leaves something out, a few digits of its hash follow, so
    that two values never have one word."""
    number = typed(name, value)
    if isinstance(number, int | float) and not isinstance(number, bool):
        return f"{number:.12g}"
    word = re.sub(r"[^\w.+]+", "-", value.strip()).strip("-")[:_MOST_WORD]
    if word == value:
        return word
    return f"{word}-{hashlib.sha256(value.encode()).hexdigest()[:4]}"


def fields_of(template: str) -> list[str]:
    """The names in braces of a template; a ManifestError where they can't be read."""
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise ManifestError(
            f"--template {shorten(template)}: {error}; write names as {{genre}}, and {{{{ or }}}} "
            "for a brace itself"
        ) from None
    names = []
    for _, name, form, conversion in parts:
        if name is None:
            continue
        if not NAME.fullmatch(name) or form or conversion:
            raise ManifestError(
                f"--template {shorten(template)}: {{{name}}} is not the name of a column; write "
                "names as {genre}, and {{ or }} for a brace itself"
            )
        names.append(name)
    return names
