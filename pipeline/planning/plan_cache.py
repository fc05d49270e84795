"""Verdicts on row groups of which nothing is left to do, kept in `cache/plan/`: the next run does
not read these rows again.

An object holds the verdicts on some row groups of one file of a manifest. It is named after all
that they depend on: the file and its version, the model, the defaults, the version of this program.
A verdict counts as long as each of its clips is committed and the same dead letters stand; that is
looked up. Row groups that name audio are left out, because what lies there may change, and so are
those that repeat an id. The objects may be deleted at any time; a damaged one is left out.

Where all row groups have such verdicts, one more object holds their sum, and the parts that stood
in the output. As long as the same parts stand there, neither the rows nor the parts are read.
"""

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from importlib.metadata import version

import numpy as np

from manifests.bulk.repeats import Rows
from manifests.identity import IDENTITY_VERSION
from manifests.reader import RowGroup
from manifests.schema import SCHEMA_VERSION
from pipeline.ledger import DoneSet
from pipeline.ledger.id_set import ID_BYTES, NO_IDS, Ids, searcher
from pipeline.ledger.part_index import (
    CHECKSUM_BYTES,
    check,
    digest_of_parts,
    with_checksum,
)
from pipeline.ledger.parts import list_parts
from pipeline.planning.expand import Outcome, PlanSpec
from pipeline.planning.judge import Judged
from pipeline.planning.scan import Plan
from pipeline.storage import ObjectInfo, ObjectNotFoundError, Storage, StorageError

log = logging.getLogger(__name__)

FOLDER = "cache/plan"
ROWS_PER_OBJECT = 1 << 19
MOST_OBJECTS = 1000  # before those of other manifests are removed
_MAGIC = b"musicgen-batch plan 1\n"
_MAGIC_WHOLE = b"musicgen-batch whole plan 1\n"
_SETTLED: frozenset[Outcome] = frozenset({"done", "standing"})


@dataclass(frozen=True)
class _Entry:
    """The verdict on one row group, which knows its rows by their place in it."""

    n_rows: int
    letters: str  # digest of the dead letters that stood
    outcomes: Mapping[Outcome, int]
    clips: Ids  # sorted
    rows: Rows | range
    digests: Ids


@dataclass(frozen=True)
class WholePlan:
    """The plan of a manifest of which nothing is left to do.

    Args:
        storage: Root of the output.
        spec: What turns rows into clips.
    """

    storage: Storage
    spec: PlanSpec

    def read(self) -> Plan | None:
        """The plan that was kept; None if there is none, or if other parts stood then."""
        path = self._path()
        try:
            data = self.storage.get(path)
            check(data, _MAGIC_WHOLE)
            found = json.loads(data[len(_MAGIC_WHOLE) : -CHECKSUM_BYTES])
        except ObjectNotFoundError:
            return None
        except (ValueError, StorageError) as error:
            log.warning("%s is left out, it can't be read: %s", self.storage.uri(path), error)
            return None
        parts = [*list_parts(self.storage, "failed"), *list_parts(self.storage, "clips")]
        if found["parts"] != digest_of_parts(parts):
            return None
        return Plan(self.spec.manifest.n_rows, Counter(found["outcomes"]))

    def keep(self, plan: Plan, parts: str) -> None:
        """Keeps the plan that was made when these parts stood; the caller holds the lease."""
        data = json.dumps({"parts": parts, "outcomes": dict(plan.outcomes)}).encode()
        try:
            self.storage.put(self._path(), with_checksum([_MAGIC_WHOLE, data]), sync=False)
        except StorageError as error:  # it only saves time
            log.warning("the plan could not be kept: %s", error)

    def _path(self) -> str:
        objects = [path for path, _ in _objects(self.spec)]
        return f"{FOLDER}/{_digest(json.dumps(objects).encode())}.whole"


@dataclass
class PlanCache:
    """Reads and writes the verdicts for one manifest.

    Attributes:
        storage: Root of the output.
        spec: What turns rows into clips.
        known: What stands.
    """

    storage: Storage
    spec: PlanSpec
    known: DoneSet
    _new: dict[int, _Entry] = field(default_factory=dict)
    _n_settled: int = 0

    @property
    def has_all(self) -> bool:
        """Whether every row group has a verdict that is kept."""
        return self._n_settled + len(self._new) == len(self.spec.manifest.row_groups)

    def settled(self, look_around: Callable[[], None]) -> dict[int, Judged]:
        """The verdicts that still hold, by the place of their row group.

        Args:
            look_around: Called now and then; what it raises ends the search.
        """
        found: dict[int, Judged] = {}
        standing = {info.path for info in self._listed()}
        letters = _digest(self.known.letters.tobytes())
        are_committed = searcher(self.known.clips)
        for path, groups in _objects(self.spec):
            look_around()
            if path not in standing:
                continue
            for index, entry in self._read(path, groups).items():
                row_group = self.spec.manifest.row_groups[index]
                if (
                    entry.letters == letters
                    and entry.n_rows == row_group.n_rows
                    and are_committed(entry.clips).all()
                ):
                    found[index] = _judged(entry, row_group.first_row)
        self._n_settled = len(found)
        return found

    def note(self, index: int, verdicts: list[Judged]) -> None:
        """Takes note of the verdicts on the slices of a row group, if they are worth keeping."""
        outcomes: Counter[Outcome] = Counter()
        for each in verdicts:
            outcomes += each.outcomes
        if outcomes.keys() <= _SETTLED and not any(each.asked_for_audio for each in verdicts):
            row_group = self.spec.manifest.row_groups[index]
            letters = _digest(self.known.letters.tobytes())
            self._new[index] = _entry(row_group, letters, outcomes, verdicts)

    def write(self) -> None:
        """Keeps what was noted, beside what is kept already; the caller holds the lease."""
        if not self._new:
            return
        objects = list(_objects(self.spec))
        try:
            standing = {info.path for info in self._listed()}
            for path, groups in objects:
                new = {index: self._new[index] for index in groups if index in self._new}
                if not new:
                    continue
                old = self._read(path, groups) if path in standing else {}
                self.storage.put(
                    path, _encode({groups.index(i): e for i, e in (old | new).items()}), sync=False
                )
            if len(standing) > MOST_OBJECTS:
                self.storage.delete(standing - {path for path, _ in objects})
        except StorageError as error:  # it only saves time
            log.warning("the plan could not be kept: %s", error)

    def _listed(self) -> list[ObjectInfo]:
        return self.storage.list(FOLDER)

    def _read(self, path: str, groups: list[int]) -> dict[int, _Entry]:
        try:
            return {groups[at]: entry for at, entry in _decode(self.storage.get(path)).items()}
        except (ValueError, KeyError, TypeError, IndexError, StorageError) as error:
            log.warning("%s is left out, it can't be read: %s", self.storage.uri(path), error)
            return {}


def _objects(spec: PlanSpec) -> Iterator[tuple[str, list[int]]]:
    """Path and row groups of each object of a manifest."""
    row_groups, group = spec.manifest.row_groups, list[int]()
    n_rows = 0
    for index, row_group in enumerate(row_groups):
        is_other = group and row_groups[group[0]].uri != row_group.uri
        if group and (is_other or n_rows + row_group.n_rows > ROWS_PER_OBJECT):
            yield _path(spec, group), group
            group, n_rows = [], 0
        group.append(index)
        n_rows += row_group.n_rows
    yield _path(spec, group), group


def _path(spec: PlanSpec, group: list[int]) -> str:
    limits = spec.limits
    row_groups = [spec.manifest.row_groups[index] for index in group]
    what = [
        *(row_groups[0].uri, row_groups[0].version),
        [(row_group.row_group, row_group.n_rows) for row_group in row_groups],
        spec.manifest.known_columns,
        *(limits.name, limits.weights_hash, sorted(limits.roles)),
        *(limits.separation, limits.watermark),
        spec.defaults.model_dump(mode="json"),
        *(IDENTITY_VERSION, SCHEMA_VERSION, version("musicgen-batch")),
    ]
    return f"{FOLDER}/{_digest(json.dumps(what).encode())}.plan"


def _entry(
    row_group: RowGroup, letters: str, outcomes: Counter[Outcome], verdicts: list[Judged]
) -> _Entry:
    clips = np.concatenate([each.clips for each in verdicts])
    clips.sort()
    for each in verdicts:
        each.clips = NO_IDS  # they stand in the entry, and are many
    rows = np.concatenate([np.asarray(each.rows, np.int64) for each in verdicts])
    rows -= row_group.first_row
    more = len(verdicts) > 1
    is_all = len(rows) == row_group.n_rows and (rows == np.arange(len(rows))).all()
    return _Entry(
        row_group.n_rows,
        letters,
        dict(outcomes),
        clips,
        range(len(rows)) if is_all else rows,
        np.concatenate([each.digests for each in verdicts]) if more else verdicts[0].digests,
    )


def _judged(entry: _Entry, first_row: int) -> Judged:
    """The verdict at the place that the row group has now."""
    rows = entry.rows
    if isinstance(rows, range):
        return Judged(
            Counter(entry.outcomes),
            rows=range(first_row, first_row + len(rows)),
            digests=entry.digests,
        )
    return Judged(Counter(entry.outcomes), rows=rows + first_row, digests=entry.digests)


def _encode(entries: Mapping[int, _Entry]) -> bytes:
    """A line that describes the entries, their arrays, and a checksum."""
    described, arrays = [], list[bytes | memoryview]()
    for at, entry in entries.items():
        is_range = isinstance(entry.rows, range)
        counts = [entry.n_rows, len(entry.clips), len(entry.digests), is_range]
        described.append([at, *counts, entry.letters, dict(entry.outcomes)])
        rows = b"" if is_range else np.asarray(entry.rows, np.int64).tobytes()
        arrays += [entry.clips.tobytes(), entry.digests.tobytes(), rows]
    return with_checksum([_MAGIC, json.dumps(described).encode(), b"\n", *arrays])


def _decode(data: bytes) -> dict[int, _Entry]:
    """What `_encode` wrote; ValueError where it is damaged."""
    check(data, _MAGIC)
    end = data.index(b"\n", len(_MAGIC))
    found, at = {}, end + 1
    for place, n_rows, n_clips, n_ids, is_range, letters, outcomes in json.loads(
        data[len(_MAGIC) : end]
    ):
        clips = np.frombuffer(data, f"S{ID_BYTES}", n_clips, at)
        at += clips.nbytes
        digests = np.frombuffer(data, f"S{ID_BYTES}", n_ids, at).copy()  # the clips are let go
        at += digests.nbytes
        rows: Rows | range = range(n_ids)
        if not is_range:
            rows = np.frombuffer(data[at : at + 8 * n_ids], np.int64)
            at += 8 * n_ids
        found[place] = _Entry(n_rows, letters, outcomes, clips, rows, digests)
    return found


def _digest(data: bytes) -> str:
    return blake2b(data, digest_size=16).hexdigest()
