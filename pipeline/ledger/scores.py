"""Scores beside the clips: parts in `scores/`, a row per clip and scorer.

A run writes the scores of takes that it judges there: those that were set aside have no other row.
The command `score` writes what it adds to clips that stand. Such a part is published before the
part with the clips that were kept: a run that is killed in between makes the takes that are to be
kept, and judges nothing again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.ledger.clip_row import ScoreRow
from pipeline.ledger.id_set import ID_BYTES, Ids, ruling_key
from pipeline.ledger.names import part_path
from pipeline.ledger.order import UNKNOWN, Span
from pipeline.ledger.parts import map_parts, publish_part, read_part
from pipeline.ledger.schema import SCORES_SCHEMA
from pipeline.storage import Storage


def write_score_part(
    storage: Storage,
    rows: Iterable[ScoreRow],
    run_id: str,
    replica: str,
    seq: int,
    generation: int = UNKNOWN,
) -> str:
    """Publishes scores; returns the path of their part. Arguments as in `write_clip_part`."""
    table = pa.Table.from_pylist([row.as_columns() for row in rows], SCORES_SCHEMA)
    path = part_path("scores", run_id, replica, seq)
    return publish_part(
        storage, path, table, SCORES_SCHEMA, spans=[Span(len(table), generation, seq)]
    )


def read_scores(
    storage: Storage, columns: Sequence[str] | None = None, run_id: str | None = None
) -> pa.Table:
    """All scores in `scores/`, or those that one run wrote; those in the rows of clips/ apart."""
    names = SCORES_SCHEMA.names if columns is None else list(columns)
    tables = map_parts(storage, "scores", lambda info: read_part(storage, info, names), run_id)
    return pa.concat_tables([SCORES_SCHEMA.empty_table().select(names), *tables])


def read_rulings(storage: Storage) -> Ids:
    """What is ruled of takes that were judged, for `DoneSet.rulings`."""
    table = _judged(read_scores(storage, ["clip_id", "ruling", "kept"]))
    columns = (table[name].to_pylist() for name in table.column_names)
    keys = [ruling_key(*row) for row in zip(*columns, strict=True)]
    return np.unique(np.array(keys, f"S{ID_BYTES}"))


def takes_judged_by(storage: Storage, run_id: str) -> tuple[frozenset[str], frozenset[str]]:
    """Ids of the clips that a run kept, and of those that it set aside."""
    table = _judged(read_scores(storage, ["clip_id", "ruling", "kept"], run_id))
    kept, others = (
        frozenset(table.filter(mask)["clip_id"].to_pylist())
        for mask in (table["kept"], pc.invert(table["kept"]))
    )
    return kept, others - kept


def _judged(table: pa.Table) -> pa.Table:
    return table.filter(pc.is_valid(table["ruling"]))
