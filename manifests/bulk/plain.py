"""Which rows of a batch are plain: sound, with a prompt and without references.

They can be judged and named without a pydantic model each. A row that is not plainly plain is left
to `parse_row`: odd characters in its id, references, anything that may be wrong. The parameters of
a row are checked by `parse_row` itself, once for each set of them that occurs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import types

from manifests.columns import plain_type
from manifests.identity import MAX_SEED, row_id
from manifests.schema import (
    AUDIO_COLUMNS,
    COLUMNS,
    MAX_ID_CHARS,
    MAX_PROMPT_CHARS,
    ROLES,
    PromptRow,
    parse_row,
)

_REFERENCES = (*AUDIO_COLUMNS, *(f"{role}_uri" for role in ROLES))
_OWN = ("id", "prompt", "seed", *_REFERENCES)  # columns that differ from row to row
PARAMETERS = tuple(name for name in COLUMNS if name not in _OWN)
_MOST_SETS = 10_000  # of parameters that are remembered

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class PlainRows:
    """The plain rows of one batch, as parallel lists."""

    positions: list[int]  # in the batch
    ids: list[str]
    prompts: list[str]
    seeds: list[int | None]
    settings: list[PromptRow]  # shared by rows with the same parameters; id and prompt mean nothing

    def __len__(self) -> int:
        return len(self.positions)


@dataclass
class Screen:
    """Finds plain rows; remembers the sets of parameters that it has met."""

    _sets: dict[str, PromptRow | None] = field(default_factory=dict)

    def plain_rows(self, batch: pa.RecordBatch) -> tuple[PlainRows, list[int]]:
        """The plain rows of a batch, and the positions of the others.

        Args:
            batch: Rows with known columns, of the types that `usable_columns` admits.
        """
        n = batch.num_rows
        columns = {name: batch.column(name) for name in batch.schema.names if name in COLUMNS}
        ids, prompts = (_texts(columns.get(name), n) for name in ("id", "prompt"))
        seeds, fits = _seeds(columns.get("seed"), n)
        for name in _REFERENCES:
            if name in columns:
                fits &= _is_null(columns[name])
        settings = self._settings(columns, n)
        found = PlainRows([], [], [], [], [])
        others: list[int] = []
        rows = zip(range(n), ids, prompts, seeds, settings, fits.tolist(), strict=True)
        for position, id, prompt, seed, own, is_fit in rows:
            if (
                not is_fit
                or own is None
                or not prompt
                or len(prompt) > MAX_PROMPT_CHARS
                or prompt.isspace()
            ):
                others.append(position)
                continue
            if not id or id.isspace():
                id = _id_of_content(own, prompt, seed)
            elif len(id) > MAX_ID_CHARS or not id.isprintable():
                others.append(position)
                continue
            found.positions.append(position)
            found.ids.append(id)
            found.prompts.append(prompt)
            found.seeds.append(seed)
            found.settings.append(own)
        return found, others

    def _settings(self, columns: dict[str, pa.Array], n: int) -> Sequence[PromptRow | None]:
        """The parameters of each row; None where `parse_row` does not take them."""
        present = {name: columns[name] for name in PARAMETERS if name in columns}
        present = {name: column for name, column in present.items() if column.null_count < n}
        if not present:
            return [self._checked({})] * n
        kinds = np.zeros(n, np.int64)
        for column in present.values():
            codes, n_values = _codes(column)
            if n_values > 1:
                kinds = np.unique(kinds * n_values + codes, return_inverse=True)[1].ravel()
        _, firsts = np.unique(kinds, return_index=True)
        sets = [
            self._checked({name: column[first].as_py() for name, column in present.items()})
            for first in firsts.tolist()
        ]
        return [sets[kind] for kind in kinds.tolist()] if len(sets) > 1 else sets * n

    def _checked(self, given: dict[str, Any]) -> PromptRow | None:
        known = repr(given)  # 1, 1.0 and True differ there
        if known not in self._sets:
            if len(self._sets) >= _MOST_SETS:
                self._sets.clear()
            row, _ = parse_row({"id": "-", "prompt": "-", **given}, source="", row=0)
            self._sets[known] = row
        return self._sets[known]


def taken(batch: pa.RecordBatch, positions: list[int]) -> pa.RecordBatch:
    """Some rows of a batch; Arrow's `take` knows no view types."""
    if len(positions) == batch.num_rows:
        return batch
    columns = [
        column.cast(plain_type(column.type))
        if types.is_string_view(column.type) or types.is_binary_view(column.type)
        else column
        for column in batch.columns
    ]
    viewless = pa.RecordBatch.from_arrays(columns, names=batch.schema.names)
    return viewless.take(pa.array(positions, pa.int64()))


def _id_of_content(own: PromptRow, prompt: str, seed: int | None) -> str:
    """The id of a row that gives none."""
    return row_id(own.content() | {"prompt": prompt, "seed": seed})


def _texts(column: pa.Array | None, n: int) -> list[str | None]:
    """Values as `parse_row` reads text: an integer is an id."""
    if column is None or types.is_null(column.type):
        return [None] * n
    found: list[str | None] = _plain(column).cast(pa.string()).to_pylist()
    return found


def _plain(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if types.is_dictionary(column.type) else column


def _is_null(column: pa.Array) -> Mask:
    return np.asarray(column.is_null().to_numpy(zero_copy_only=False), bool)


def _seeds(column: pa.Array | None, n: int) -> tuple[list[int | None], Mask]:
    """Seeds, and which of them may stand in a row."""
    if column is None or column.null_count == n:
        return [None] * n, np.ones(n, bool)
    column = _plain(column)
    null = _is_null(column)
    values = column.fill_null(0).to_numpy(zero_copy_only=False)
    if types.is_floating(column.type):
        values = values.astype(np.float64)
        null |= np.isnan(values)
        values = np.where(null, 0.0, values)
        fits = (values >= 0) & (values < 2.0**63) & (np.floor(values) == values)
        values = np.where(fits, values, 0.0).astype(np.int64)
    else:
        fits = (values >= 0) & (values <= MAX_SEED)
    seeds = values.tolist()
    return [None if no else seed for no, seed in zip(null.tolist(), seeds, strict=True)], fits


def _codes(column: pa.Array) -> tuple[NDArray[np.int64], int]:
    """A number for each value, null included, and how many numbers there are."""
    encoded = _plain(column).dictionary_encode()
    codes = np.asarray(encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False), np.int64) + 1
    n_values = len(encoded.dictionary) + 1
    if n_values == 2 and not column.null_count:
        return codes, 1
    return codes, n_values
