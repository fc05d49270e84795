"""What a run has to do: manifest minus ledger, computed without a model.

The manifest is cut into slices that are judged side by side (`judge`, `pool`). Rows never come to
the driver: it gets counts, dead letters and 16 bytes per row, by which it finds repeated ids.
Slices with such rows are judged again.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from types import MappingProxyType
from typing import Any

import numpy as np

from manifests.bulk.repeats import RowIds
from manifests.reader import Manifest, RowGroup
from pipeline.ledger.id_set import NO_IDS, DoneSet, Ids
from pipeline.planning.clips import DeadLetter
from pipeline.planning.expand import Outcome, PlanSpec, Selection
from pipeline.planning.judge import Judge, Judged, Slice, slices_of
from pipeline.planning.pool import IsOver, LocalPool, Pool
from pipeline.telemetry.words import counted

FEWEST_ROWS, MOST_ROWS = (
    16_384,
    65_536,
)  # of a task; more of them cost less where row groups are big
TASKS = 16  # that a manifest is cut into, within these bounds

# Told how many rows have been scanned, at least every `pool.TICK_S`; what it raises ends the scan.
Watcher = Callable[[int], None]
# Told a row group, by its place in the manifest, and the verdicts on its slices.
Note = Callable[[int, list[Judged]], None]
NO_VERDICTS: Mapping[int, Judged] = MappingProxyType({})


@dataclass
class Plan:
    """Counts of one pass over a manifest, in clips (a row that is refused as a whole counts 1)."""

    n_rows: int = 0
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    pending_audio_s: float = 0.0
    row_groups: list[RowGroup] = field(default_factory=list)  # those with something pending
    letters: list[DeadLetter] = field(default_factory=list)  # newly refused
    repeats: dict[int, int] = field(default_factory=dict)  # row number to repeat, duplicates only
    is_whole: bool = True  # whether the scan came to its end

    @property
    def total(self) -> int:
        return sum(self.outcomes.values())

    @property
    def pending(self) -> int:
        return self.outcomes["pending"]


def scan(
    spec: PlanSpec,
    selection: Selection,
    pool: Pool | None = None,
    watch: Watcher = lambda n_rows: None,
    settled: Mapping[int, Judged] = NO_VERDICTS,
    note: Note | None = None,
) -> Plan:
    """What is done, refused, and left to do.

    References are looked at (once per distinct URI and process), since they are part of a clip's
    identity; nothing is decoded.

    Args:
        spec: What turns rows into clips.
        selection: What stands, and what is asked for.
        pool: Where slices are judged; by default on this machine.
        watch: Follows the scan.
        settled: Verdicts on whole row groups that are known, by their place: they are not read.
        note: Told the verdicts on the slices of each row group that was read and repeats no id.

    Raises:
        ManifestError: The manifest can't be read.
        PlanningError: Processes that scan it keep dying.
    """
    if pool is None:
        with LocalPool() as local:
            return scan(spec, selection, local, watch, settled, note)
    action = _action(spec, selection, pool, with_clips=note is not None)
    slices, judged, repeats = _judge_all(spec.manifest, action, pool, watch, settled)
    plan = Plan(n_rows=spec.manifest.n_rows, repeats=repeats)
    pending: dict[int, None] = {}
    for piece, found in zip(slices, judged, strict=True):
        plan.outcomes += found.outcomes
        plan.pending_audio_s += found.pending_audio_s
        plan.letters += found.letters
        if found.outcomes["pending"]:
            pending[piece.row_group] = None
    plan.row_groups = [spec.manifest.row_groups[index] for index in pending]
    if note is None:
        return plan
    firsts = [row_group.first_row for row_group in spec.manifest.row_groups]
    with_repeats = {bisect_right(firsts, row) - 1 for row in repeats}
    for index, group in groupby(zip(slices, judged, strict=True), lambda pair: pair[0].row_group):
        if index not in settled and index not in with_repeats:
            note(index, [verdict for _, verdict in group])
    return plan


def wanted_clips(spec: PlanSpec) -> Ids:
    """Ids of all clips that a manifest asks for, made or not, sorted."""
    with LocalPool() as pool:
        action = _action(spec, Selection(DoneSet(NO_IDS, NO_IDS)), pool, with_clips=True)
        _, judged, _ = _judge_all(spec.manifest, action, pool, lambda n_rows: None, NO_VERDICTS)
    return np.unique(np.concatenate([NO_IDS, *(found.clips for found in judged)]))


def describe_plan(plan: Plan, retry: bool = False) -> str:
    """One line for people: what stands, and what is left to do."""
    o = plan.outcomes
    parts = [f"{counted(o['pending'], 'clip')} to make ({plan.pending_audio_s:.1f} s of audio)"]
    parts.append(f"{o['done']} already done")
    if o["standing"]:
        parts.append(f"{o['standing']} skipped, they failed before (`retry` tries them again)")
    if o["refused"]:
        parts.append(f"{o['refused']} refused now")
    if retry:
        parts.append(f"{o['unasked']} not asked for")
    return f"{counted(plan.n_rows, 'row')}: " + ", ".join(parts)


@dataclass
class JudgeSlices:
    """The action of a scan: verdicts on some slices.

    Attributes:
        spec: What turns rows into clips.
        retry: See `Selection`.
        clips: Gives the committed clips.
        letters: Gives the rows whose dead letter stands.
        rulings: Gives what is ruled of takes that were judged.
        with_clips: Whether somebody wants `Judged.clips`.
    """

    spec: PlanSpec
    retry: bool
    clips: Callable[[], Ids]
    letters: Callable[[], Ids]
    rulings: Callable[[], Ids]
    with_clips: bool
    _judge: Judge | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_judge": None}

    def __call__(
        self, task: tuple[Sequence[Slice], Mapping[int, int]], is_over: IsOver
    ) -> list[Judged]:
        """The verdicts on the slices of a task, given the repeats among their rows."""
        if self._judge is None:
            known = DoneSet(self.clips(), self.letters(), self.rulings())
            self._judge = Judge(self.spec, Selection(known, self.retry), is_over)
        slices, repeats = task
        found = [self._judge.judge(piece, repeats) for piece in slices]
        if not self.with_clips:
            for verdict in found:
                verdict.clips = NO_IDS
        return found


def _action(spec: PlanSpec, selection: Selection, pool: Pool, *, with_clips: bool) -> JudgeSlices:
    known = selection.known
    return JudgeSlices(
        spec,
        selection.retry,
        clips=pool.share(known.clips),
        letters=pool.share(known.letters),
        rulings=pool.share(known.rulings),
        with_clips=with_clips,
    )


def _judge_all(
    manifest: Manifest,
    action: JudgeSlices,
    pool: Pool,
    watch: Watcher,
    settled: Mapping[int, Judged],
) -> tuple[list[Slice], list[Judged], dict[int, int]]:
    """All slices in order, the verdicts on them, and the rows that repeat an id."""
    task_rows = min(max(manifest.n_rows // TASKS, FEWEST_ROWS), MOST_ROWS)
    slices = slices_of(manifest, task_rows, settled.keys())
    found: list[Judged] = [Judged()] * len(slices)
    ids, n_rows = RowIds(), 0

    def judge(wanted: Sequence[int], repeats: Mapping[int, int]) -> Iterator[int]:
        """Judges the slices at some places; yields the place of each when its verdict is there."""
        tasks = list(_tasks(wanted, slices, task_rows))
        given = [
            ([slices[at] for at in task], _among_rows(repeats, manifest, slices, task))
            for task in tasks
        ]
        for result in pool.run(action, given):
            if result is None:
                watch(n_rows)
                continue
            for at, verdict in zip(tasks[result[0]], result[1], strict=True):
                found[at] = verdict
                yield at

    unknown = []
    for at, piece in enumerate(slices):
        if piece.row_group in settled:
            found[at] = settled[piece.row_group]
            ids.note_many(found[at].rows, found[at].digests)
            n_rows += piece.n_rows
        else:
            unknown.append(at)
    for at in judge(unknown, {}):
        ids.note_many(found[at].rows, found[at].digests)
        n_rows += slices[at].n_rows
        watch(n_rows)
    repeats = {row: repeat.times for row, repeat in ids.repeats().items()}
    if repeats:
        starts = [manifest.row_groups[each.row_group].first_row + each.start for each in slices]
        again = sorted({bisect_right(starts, row) - 1 for row in repeats})
        for _ in judge(again, repeats):
            watch(n_rows)
    return slices, found, repeats


def _tasks(wanted: Sequence[int], slices: Sequence[Slice], most_rows: int) -> Iterator[list[int]]:
    """Successive slices together, as long as they have few rows."""
    task: list[int] = []
    n_rows = 0
    for at in wanted:
        if task and n_rows + slices[at].n_rows > most_rows:
            yield task
            task, n_rows = [], 0
        task.append(at)
        n_rows += slices[at].n_rows
    if task:
        yield task


def _among_rows(
    repeats: Mapping[int, int], manifest: Manifest, slices: Sequence[Slice], task: Sequence[int]
) -> dict[int, int]:
    """The repeats among the rows of some slices."""
    if not repeats:
        return {}
    found = {}
    for at in task:
        first_row = manifest.row_groups[slices[at].row_group].first_row
        rows = range(first_row + slices[at].start, first_row + slices[at].stop)
        found.update({row: repeats[row] for row in rows if row in repeats})
    return found
