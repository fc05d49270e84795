"""Puts one part in the place of several, without some of their rows; may be killed at any moment.

The new part lists those that it replaces, and readers leave those out from the moment that it
exists. Removing them comes second; whoever comes next finishes that (`finish_compaction`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.ledger.lease import Lease
from pipeline.ledger.names import Kind
from pipeline.ledger.order import kept_spans, spans_of
from pipeline.ledger.output_schema import with_all_columns
from pipeline.ledger.parts import publish_part, read_part, split_parts
from pipeline.storage import ObjectInfo, Storage

KINDS: tuple[Kind, ...] = ("clips", "failed")
Mask = npt.NDArray[np.bool_]


@dataclass
class KeptPart:
    """A part on its way through upkeep.

    Attributes:
        keep: Which of its rows stay.
        fits: Whether it has all the columns that the output has.
    """

    info: ObjectInfo
    keep: Mask
    fits: bool = True

    @property
    def n_rows(self) -> int:
        return int(self.keep.sum())

    @property
    def is_whole(self) -> bool:
        """Whether it can stay as it is."""
        return self.fits and bool(self.keep.all())


def finish_compaction(storage: Storage, lease: Lease) -> int:
    """Removes the parts that a merged part replaces, which a killed `compact` left behind.

    Readers ignore them, because the merged part lists them. Were the merged part itself merged into
    another before they are removed, that list would be lost and they would be read again.
    """
    replaced = replaced_parts(storage)
    if replaced:
        lease.check()
        storage.delete(replaced)
    return len(replaced)


def replaced_parts(storage: Storage) -> list[str]:
    """Paths of the parts that a merged part replaces and that still exist."""
    return [info.path for kind in KINDS for info in split_parts(storage, kind)[1]]


def merge(
    storage: Storage,
    lease: Lease,
    path: str,
    group: Sequence[KeptPart],
    schema: pa.Schema | None = None,
) -> None:
    """Puts one part in the place of a group; none if no row of it is kept.

    Args:
        storage: root of the output.
        lease: of that output, held.
        path: of the new part, a name of MERGED.
        group: the parts that it replaces.
        schema: of the new part; by default that of the old ones.
    """
    old = [part.info.path for part in group]
    if any(part.n_rows for part in group):  # else all rows stand in other parts or are obsolete
        tables, spans = [], []
        for part in group:
            table = read_part(storage, part.info)
            spans += kept_spans(spans_of(table), part.keep)
            kept = table.filter(pa.array(part.keep))
            tables.append(kept if schema is None else with_all_columns(kept, schema))
        rows = pa.concat_tables(tables)
        names = [each.rpartition("/")[2] for each in old]
        lease.check()
        publish_part(storage, path, rows, schema or rows.schema, names, spans)
    lease.check()
    storage.delete(old)
