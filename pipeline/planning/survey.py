"""What stands in an output and what a manifest still asks for: reads the parts, then the rows."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TextIO

from pipeline.ledger.part_index import NOTHING_STANDS, Standing, read_standing
from pipeline.ledger.scores import read_rulings
from pipeline.planning.expand import PlanSpec, Selection
from pipeline.planning.plan_cache import PlanCache, WholePlan
from pipeline.planning.pool import Action, Pool
from pipeline.planning.scan import Plan, Watcher, scan
from pipeline.storage import Storage
from pipeline.telemetry.progress import ProgressView, ScanTally

FEWEST_ROWS_KEPT = 10_000  # a smaller manifest is scanned in no time
QUIET_S = 2.0  # a scan that is over by then says nothing


class ScanStoppedError(RuntimeError):
    """The run ends before its manifest was scanned."""


@dataclass(frozen=True)
class Survey:
    """What stands, which is not read where nothing is left to do, and what is left to do."""

    standing: Standing
    plan: Plan


def survey(
    storage: Storage,
    spec: PlanSpec,
    pool: Pool,
    *,
    retry: bool = False,
    watch: Watcher = lambda n_rows: None,
    keep: bool = False,
) -> Survey:
    """Plans a run.

    Args:
        storage: Root of the output.
        spec: What turns rows into clips.
        pool: Where parts and rows are read.
        retry: See `Selection`.
        watch: Follows the work, and ends it by raising.
        keep: Keep in the output what saves the next run time; the caller holds the lease.
    """

    def run_tasks(action: Action, tasks: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        for result in pool.run(action, tasks):
            watch(0)
            if result is not None:
                yield result

    # What is kept says nothing of how takes were judged.
    uses_cache = not retry and spec.judging is None and spec.manifest.n_rows >= FEWEST_ROWS_KEPT
    whole = WholePlan(storage, spec)
    if uses_cache and (plan := whole.read()) is not None:
        return Survey(NOTHING_STANDS, plan)
    standing = read_standing(storage, run_tasks, keep=keep)
    if spec.judging is not None:
        known = replace(standing.known, rulings=read_rulings(storage))
        standing = replace(standing, known=known)
    selection = Selection(standing.known, retry)
    if not uses_cache:
        return Survey(standing, scan(spec, selection, pool, watch))
    cache = PlanCache(storage, spec, standing.known)
    settled = cache.settled(lambda: watch(0))
    plan = scan(spec, selection, pool, watch, settled, cache.note if keep else None)
    if keep:
        cache.write()
        if cache.has_all:
            whole.keep(plan, standing.parts)
    return Survey(standing, plan)


class ScanWatch:
    """Shows how far a scan has come, and ends it.

    Args:
        n_rows: Rows of the manifest.
        check: Called several times a second; what it raises ends the scan.
        say: Told when a scan takes time, and how long it took.
        progress: Where progress is shown, if anywhere.
        interval_s: Between lines.
    """

    def __init__(
        self,
        n_rows: int,
        check: Callable[[], None],
        say: Callable[[str], None],
        progress: TextIO | None,
        interval_s: float,
    ) -> None:
        self._tally, self._check = ScanTally(n_rows), check
        self._say, self._progress, self._interval_s = say, progress, interval_s
        self._is_told = False
        self._view: ProgressView | None = None

    def __call__(self, n_rows: int) -> None:
        """Takes note of how many rows have been scanned."""
        self._check()
        self._tally.ended = n_rows
        if not self._is_told and time.monotonic() - self._tally.started > QUIET_S:
            self._is_told = True
            self._say(f"scanning the {self._tally.total} rows of the manifest")
            if self._progress is not None:
                self._view = ProgressView(self._tally, self._interval_s, self._progress)
        if self._view is not None:
            self._view.update()

    def close(self) -> None:
        """Shows where the scan has come to."""
        if self._view is not None:
            self._view.close()
        elif self._is_told:
            self._say(self._tally.line())
