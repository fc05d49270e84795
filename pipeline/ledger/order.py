"""The order in which rows were committed: by the generation of the lease, then by the number of the
part, never by clocks, which differ between machines.

A part names in its metadata who wrote its rows; a merged part does so for the rows of each part
that it replaced. Parts of earlier versions name nothing: their rows come before all that do, in the
order of `created_at`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

ORDER_KEY = b"musicgen_batch.order"
UNKNOWN = 0  # the generation of rows whose part does not tell

_NAMED = 1 << 60  # above every time in microseconds
_SEQ_BITS = 34
_LAST_SEQ = (1 << _SEQ_BITS) - 1

Order = npt.NDArray[np.int64]


class Span(NamedTuple):
    """Successive rows of a part that were committed together."""

    n_rows: int
    generation: int
    seq: int


def order_metadata(spans: Sequence[Span]) -> dict[bytes, bytes]:
    """What a part says of its rows; nothing where nothing is known."""
    if all(span.generation == UNKNOWN for span in spans):
        return {}
    return {ORDER_KEY: json.dumps([list(span) for span in spans]).encode()}


def spans_of(table: pa.Table) -> list[Span]:
    """Who wrote the rows of a whole part, as it was read."""
    unknown = [Span(len(table), UNKNOWN, 0)]
    said = (table.schema.metadata or {}).get(ORDER_KEY)
    if said is None:
        return unknown
    spans = [Span(*map(int, span)) for span in json.loads(said)]
    return spans if sum(span.n_rows for span in spans) == len(table) else unknown


def kept_spans(spans: Sequence[Span], keep: npt.NDArray[np.bool_]) -> list[Span]:
    """The spans of the rows that are kept."""
    pieces = np.split(keep, np.cumsum([span.n_rows for span in spans])[:-1])
    kept = [(span, int(piece.sum())) for span, piece in zip(spans, pieces, strict=True)]
    return [span._replace(n_rows=n_rows) for span, n_rows in kept if n_rows]


def generations_of(table: pa.Table) -> Order:
    """The generation that committed each row of a part."""
    return _spread(spans_of(table), lambda span: span.generation)


def order_of_letters(table: pa.Table) -> Order:
    """Numbers that sort the dead letters of any parts; needs the column `created_at`."""
    return _order(table, lambda span: min(span.seq, _LAST_SEQ))


def order_of_clips(table: pa.Table) -> Order:
    """Numbers that sort clips among dead letters: a clip comes after the letters of its own
    generation, since a row that is made has not failed; needs the column `created_at`."""
    return _order(table, lambda span: _LAST_SEQ)


def times_us(table: pa.Table) -> Order:
    """`created_at` in microseconds since 1970."""
    column = table["created_at"].cast(pa.int64()).combine_chunks()
    return np.asarray(column.to_numpy(zero_copy_only=False))


def _order(table: pa.Table, place: Callable[[Span], int]) -> Order:
    spans = spans_of(table)
    order = _spread(spans, lambda span: _NAMED + (span.generation << _SEQ_BITS) + place(span))
    unknown = _spread(spans, lambda span: span.generation) == UNKNOWN
    return np.where(unknown, times_us(table), order) if unknown.any() else order


def _spread(spans: Sequence[Span], value: Callable[[Span], int]) -> Order:
    values = np.asarray([value(span) for span in spans], np.int64)
    return np.repeat(values, [span.n_rows for span in spans])
