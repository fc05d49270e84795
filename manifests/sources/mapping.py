"""`--map`: columns under other names, and constants for columns that a table lacks."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from manifests.messages import edits, shorten
from manifests.reader import ManifestError
from manifests.schema import BOOL_COLUMNS, FLOAT_COLUMNS, INT_COLUMNS
from manifests.sources.rows import SourceRow, typed

_NUMBERS = (*FLOAT_COLUMNS, *INT_COLUMNS)


@dataclass(frozen=True)
class ColumnMap:
    """Which columns are renamed and which are filled; made by `column_map`."""

    sources: Mapping[str, str] = field(default_factory=dict)  # new name to column
    constants: Mapping[str, Any] = field(default_factory=dict)

    def apply(self, row: SourceRow) -> SourceRow:
        """The row under its new names."""
        if not self.sources and not self.constants:
            return row
        used = {*self.sources.values(), *self.sources, *self.constants}
        raw = {new: row.raw.get(old) for new, old in self.sources.items()}
        if row.is_text:
            raw = {
                name: typed(name, value) if isinstance(value, str) else value
                for name, value in raw.items()
            }
        kept = {name: value for name, value in row.raw.items() if name not in used}
        return row.with_raw({**raw, **self.constants, **kept})

    def words(self) -> str:
        """What is mapped, for people."""
        renamed = [f"{new} is column {old!r}" for new, old in self.sources.items()]
        filled = [f"{new} is {value!r} in every row" for new, value in self.constants.items()]
        return ", ".join([*renamed, *filled])


def column_map(wanted: Mapping[str, str], names: Collection[str]) -> ColumnMap:
    """What `--map` means for tables with these columns: a value that is no column is a constant.

    Raises:
        ManifestError: A constant can't be meant, because its column takes numbers or because it is
            nearly the name of a column.
    """
    sources = {new: what for new, what in wanted.items() if what in names}
    constants = {}
    for new, what in wanted.items():
        if what not in names:
            constants[new] = _constant(new, what, names)
    return ColumnMap(sources, constants)


def _constant(new: str, what: str, names: Collection[str]) -> Any:
    has = f"the columns are {', '.join(names) or 'none'}"
    if what.startswith("="):
        value = typed(new, what[1:])
    else:
        near = min(
            ((edits(what.casefold(), name.casefold()), name) for name in names), default=None
        )
        if near is not None and near[0] <= 2 and near[0] < len(near[1]) and _is_word(what):
            raise ManifestError(
                f"--map {new}={what}: there is no column {shorten(what)}; did you mean "
                f"{shorten(near[1])}? For that text in every row write --map '{new}=={what}'"
            )
        value = typed(new, what)
    if new in _NUMBERS and isinstance(value, str):
        raise ManifestError(
            f"--map {new}={what}: {shorten(what)} is neither a column nor a number; {has}"
        )
    if new in BOOL_COLUMNS and not isinstance(value, bool):
        raise ManifestError(
            f"--map {new}={what}: {shorten(what)} is neither a column nor true or false; {has}"
        )
    return value


def _is_word(text: str) -> bool:
    return not any(c.isspace() for c in text) and not text.replace(".", "").isdigit()
