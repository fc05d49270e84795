"""The CPU pool in front of the replicas: rows become clips with their references at hand.

Each row is checked and identified again (the driver's scan holds no rows), what stands in the
ledger is dropped, melodies become pitch classes (a few hundred bytes) and continuations samples at
the model's rate. A row that fails travels on as a dead letter. What a reference does to the process
that reads it concerns its own row alone: `manifests.isolation` has processes for that.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from manifests.audio_file import locate
from manifests.isolation.pool import ReaderPool, Work
from manifests.isolation.process import Factory
from manifests.reader import Manifest
from pipeline.ledger.id_set import DoneSet, Ids
from pipeline.planning.clips import DeadLetter, PlannedClip
from pipeline.planning.expand import Expander, Selection
from pipeline.prepare.messages import PrepareSettings
from pipeline.prepare.prepared import (
    EXTRA,
    Prepared,
    PreparedClip,
    extra_field,
    judged_together,
    to_table,
)
from pipeline.prepare.references import READER, HeardRow, RowReferences, WindowPlanner

log = logging.getLogger(__name__)

READ_ROWS = 2_000
RAW_ROW_BYTES = 128 * 2**10  # so that a block of 256 rows holds about 32 MB
PORTION_BYTES = 32 * 2**20  # of references in one table of prepared rows, or one row's


def read_rows(manifest: Manifest, batch: pa.Table) -> Iterator[pa.Table]:
    """Ray task: the rows of some row groups. Columns: `row` (number over the whole manifest), `raw`
    (the known columns, pickled: their types may differ between files) and the extra columns.

    A large row, with embedded audio for one, is followed by rows of nulls, one per RAW_ROW_BYTES:
    Ray cuts blocks by rows, and so a block of n rows holds about n * RAW_ROW_BYTES at most.
    """
    for index in batch["row_group"].to_pylist():
        row_group = manifest.row_groups[index]
        for first_row, rows in manifest.read_row_group(row_group, batch_rows=READ_ROWS):
            raws = [pickle.dumps(raw) for raw in manifest.raw_rows(rows)]
            numbers = pa.array(range(first_row, first_row + rows.num_rows), pa.int64())
            table = pa.table({"row": numbers, "raw": pa.array(raws, pa.large_binary())})
            for field in manifest.extra_schema:
                table = table.append_column(extra_field(field), rows[field.name])
            yield with_empty_rows(table)


def with_empty_rows(table: pa.Table) -> pa.Table:
    """Rows as `read_rows` gives them, with rows of nulls behind large ones."""
    if table.nbytes < RAW_ROW_BYTES:
        return table
    indexes: list[int | None] = []
    for index in range(table.num_rows):
        n_empty = table.slice(index, 1).nbytes // RAW_ROW_BYTES
        indexes += [index, *[None] * n_empty]
    return table if len(indexes) == table.num_rows else table.take(pa.array(indexes, pa.int64()))


class Prepare:
    """Ray actor of the prepare pool: a table of manifest rows in, prepared rows out.

    References are read in processes of its own, which are started with the first row that has one.

    Args:
        settings: The plan and the model.
        known: Gets what stands in the ledger: (clip ids, row keys of dead letters, rulings on
            takes), as `DoneSet` has them, one shared copy per node in Ray's object store.

    Attributes:
        reader: Makes what these processes do; a subclass of a test names one that does harm.
    """

    reader = READER

    def __init__(self, settings: PrepareSettings, known: Callable[[], tuple[Ids, ...]]) -> None:
        spec = settings.spec
        self.settings = settings
        self.expander = Expander(spec)
        self.selection = Selection(DoneSet(*known()), settings.retry)
        self.planner = WindowPlanner(settings.info)
        told = (spec.access.plain(), settings.info, spec.limits.separation)
        factory = Factory(self.reader, (*told, True) if settings.tunes else told)
        self.readers = ReaderPool(factory, spec.policy.readers_mb)

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        found = list(self._expand(table))
        extras = [name for name in table.column_names if name.startswith(EXTRA)]
        indexes = pa.array([index for index, _ in found], pa.int64())
        sources = table.take(indexes).select(extras)
        n_written = 0
        for rows in in_portions(self._prepare([item for _, item in found])):
            yield to_table(rows, sources.slice(n_written, len(rows)))
            n_written += len(rows)

    def close(self) -> None:
        """Ends the processes; may be called from another thread."""
        self.readers.close()

    def _expand(self, table: pa.Table) -> list[tuple[int, _Item]]:
        """What is to be made of which row of the table. Long clips go first, so that replicas end
        with short ones, and at nearly the same time; those that hear the same are neighbours."""
        numbers = table["row"].to_pylist()
        found: list[tuple[int, _Item]] = []
        order: dict[object, int] = {}  # of first occurrence, by what is heard
        for index, raw in enumerate(table["raw"].to_pylist()):
            if raw is None:  # it only took room
                continue
            for item in self._expand_row(pickle.loads(raw), numbers[index]):
                key = len(found) if item.heard is None else item.heard.key
                rank = (-item.length_s, order.setdefault(key, len(order)))
                found.append((index, replace(item, rank=rank)))
        return sorted(found, key=lambda pair: pair[1].rank)

    def _expand_row(self, raw: Mapping[str, Any], number: int) -> Iterator[_Item]:
        repeat = self.settings.repeats.get(number, 0)
        try:
            for _, outcome in self.expander.expand(raw, number, repeat, self.selection):
                if isinstance(outcome, PlannedClip):
                    heard = references_of(outcome) if outcome.references else None
                    yield _Item(outcome, heard, outcome.spec.params.duration_s)
                elif outcome is not None:
                    yield _Item(outcome)
        except Exception as error:
            log.exception("row %d can't be planned", number)
            yield _Item(self.expander.failed(raw, number, error))

    def _prepare(self, items: Sequence[_Item]) -> Iterator[Prepared]:
        """The items in their order, prepared. Those that hear the same follow each other."""
        policy = self.settings.spec.policy
        rows = {item.heard.key: item.heard for item in items if item.heard is not None}
        works = [Work(row, policy.reading_limit_s(len(row.places))) for row in rows.values()]
        answers = zip(rows, self.readers.answers(works), strict=True)
        key: object = None
        answer: HeardRow | Exception
        for item in items:
            if isinstance(item.planned, DeadLetter):
                yield item.planned
                continue
            if item.heard is None:
                answer = self._without_references(item.planned)
            else:
                while key != item.heard.key:
                    key, answer = next(answers)
            if isinstance(answer, HeardRow):
                yield PreparedClip(item.planned.spec, **vars(answer), judged=item.planned.judged)
            else:
                yield item.planned.spec.dead_letter("prepare", answer)

    def _without_references(self, clip: PlannedClip) -> HeardRow | Exception:
        try:
            return self.planner.without_references(clip.spec.params)
        except Exception as error:
            return error


@dataclass(frozen=True)
class _Item:
    """What is to be prepared, or is refused already.

    Attributes:
        heard: Its references; None without any.
        length_s: Of the clip.
        rank: Its place in the order.
    """

    planned: PlannedClip | DeadLetter
    heard: RowReferences | None = None
    length_s: float = 0.0
    rank: tuple[float, int] = (0.0, 0)


def references_of(clip: PlannedClip) -> RowReferences:
    """What a reader must know to hear the references of a clip."""
    places = {
        role: locate(reference, clip.manifest_uri) for role, reference in clip.references.items()
    }
    return RowReferences(places, clip.spec.references, clip.spec.params)


def in_portions(rows: Iterable[Prepared]) -> Iterator[list[Prepared]]:
    """The rows in order, about PORTION_BYTES at a time; at least one portion. Takes that are judged
    together stay together."""
    portion: list[Prepared] = []
    n_bytes = n_portions = 0
    for takes in judged_together(enumerate(rows)):
        portion += [row for _, row in takes]
        n_bytes += takes[0][1].nbytes if isinstance(takes[0][1], PreparedClip) else 0
        if n_bytes >= PORTION_BYTES:
            yield portion
            portion, n_bytes, n_portions = [], 0, n_portions + 1
    if portion or not n_portions:
        yield portion
