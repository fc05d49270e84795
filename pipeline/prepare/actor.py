"""The CPU pool in front of the replicas: rows become clips with their references at hand.

Each row is checked and identified again (the driver's scan holds no rows), what stands in the
ledger is dropped, melodies become pitch classes (a few hundred bytes) and continuations samples at
the model's rate. A row that fails travels on as a dead letter; nothing here stops the job.
"""

import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from manifests.reader import Manifest
from pipeline.ledger.id_set import DoneSet, Ids
from pipeline.planning.clips import DeadLetter, PlannedClip
from pipeline.planning.expand import Expander, Selection
from pipeline.prepare.messages import PrepareSettings
from pipeline.prepare.prepared import EXTRA, Prepared, extra_field, to_table
from pipeline.prepare.references import ReferenceReader

FETCH_THREADS = 8
READ_ROWS = 2_000


def read_rows(manifest: Manifest, batch: pa.Table) -> Iterator[pa.Table]:
    """Ray task: the rows of some row groups. Columns: `row` (number over the whole manifest), `raw`
    (the known columns, pickled: their types may differ between files) and the extra columns."""
    for index in batch["row_group"].to_pylist():
        row_group = manifest.row_groups[index]
        for first_row, rows in manifest.read_row_group(row_group, batch_rows=READ_ROWS):
            raws = [pickle.dumps(raw) for raw in manifest.raw_rows(rows)]
            numbers = pa.array(range(first_row, first_row + rows.num_rows), pa.int64())
            table = pa.table({"row": numbers, "raw": pa.array(raws, pa.large_binary())})
            for field in manifest.extra_schema:
                table = table.append_column(extra_field(field), rows[field.name])
            yield table


class Prepare:
    """Ray actor of the prepare pool: a table of manifest rows in, prepared rows out.

    Args:
        settings: The plan and the model.
        known: Gets what stands in the ledger: (clip ids, row keys of dead letters), sorted, one
            shared copy per node in Ray's object store.
    """

    def __init__(self, settings: PrepareSettings, known: Callable[[], tuple[Ids, Ids]]) -> None:
        self.settings = settings
        self.expander = Expander(settings.spec)
        self.selection = Selection(DoneSet(*known()), settings.retry)
        self.references = ReferenceReader(settings.spec, settings.info)
        self.pool = ThreadPoolExecutor(FETCH_THREADS)

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        numbers = table["row"].to_pylist()
        found: list[tuple[int, PlannedClip | DeadLetter]] = []
        for index, raw in enumerate(table["raw"].to_pylist()):
            number = numbers[index]
            repeat = self.settings.repeats.get(number, 0)
            given = pickle.loads(raw)
            for _, item in self.expander.expand(given, number, repeat, self.selection):
                if item is not None:
                    found.append((index, item))
        found.sort(key=lambda pair: _length_s(pair[1]), reverse=True)
        rows = list(self.pool.map(self._prepare, (item for _, item in found)))
        sources = table.take(pa.array([index for index, _ in found], pa.int64()))
        extras = [name for name in table.column_names if name.startswith(EXTRA)]
        yield to_table(rows, sources.select(extras))

    def _prepare(self, item: PlannedClip | DeadLetter) -> Prepared:
        if isinstance(item, DeadLetter):
            return item
        try:
            return self.references.prepare(item)
        except ValueError as error:
            return item.spec.dead_letter("prepare", error)


def _length_s(item: PlannedClip | DeadLetter) -> float:
    """Long clips go first, so that replicas end with short ones, and at nearly the same time."""
    return item.spec.params.duration_s if isinstance(item, PlannedClip) else 0.0
