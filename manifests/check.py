"""Every error of every row at once: what `musicgen-batch manifest check` does."""

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from manifests.audio_file import ReferenceOpener, check_audible
from manifests.build import repeated_id, write_parquet
from manifests.bulk.plain import PlainRows, Screen, taken
from manifests.bulk.repeats import Repeat, RowIds, digests_of
from manifests.messages import shorten
from manifests.reader import Manifest, ManifestError
from manifests.row_errors import RowError, check_audio_for_any_model, check_role
from manifests.schema import (
    BUILT_IN_DEFAULTS,
    EffectiveParams,
    GenerationDefaults,
    PromptRow,
    RowIssue,
    check_columns,
    effective,
    parse_row,
)
from manifests.sources.inputs import forms_in
from manifests.sources.options import STDIN, Reading, Source
from manifests.sources.rows import Cell
from manifests.sources.tables import Tables
from manifests.uris.policy import DEFAULT_POLICY, ReferenceAccess, ReferencePolicy
from manifests.uris.suffixes import named

REJECTS_SCHEMA = pa.schema(
    [
        ("source", pa.string()),
        ("row", pa.int64()),
        ("line", pa.int64()),
        ("id", pa.string()),
        ("problems", pa.list_(pa.string())),
        ("row_json", pa.string()),
    ]
)
_ROWS_AT_ONCE = 64


@dataclass(frozen=True)
class CheckedModel:
    """What `manifest check` asks of a model: which references it takes, and what of their audio."""

    name: str
    roles: frozenset[str]  # references that it takes
    check_audio: Callable[[str, int, int, EffectiveParams], None] = check_audio_for_any_model
    """Raises a RowError for a reference that the model can't use. It takes the role, the number of
    samples, their rate in Hz, and the clip's parameters."""


@dataclass(frozen=True)
class CheckReport:
    """Everything that is wrong with a manifest."""

    n_rows: int
    n_clips: int  # takes of the rows that are right
    column_faults: tuple[str, ...]
    issues: tuple[RowIssue, ...]
    rejects_uri: str | None  # None: no row was rejected, nobody asked, or it failed
    rejects_fault: str | None = None  # why it failed
    notes: tuple[str, ...] = ()  # what was found out about the source, and how it was read

    @property
    def ok(self) -> bool:
        """Whether `run` would take every row."""
        return not self.column_faults and not self.issues

    @property
    def n_rejected(self) -> int:
        """Rows with at least one issue."""
        return len({issue.row for issue in self.issues})


@dataclass(frozen=True)
class _Row:
    """A row on its way through the checks."""

    manifest_uri: str  # what its references count from
    source: str
    number: int
    line: int | None
    raw: Mapping[str, Any]
    parsed: PromptRow | None
    issues: list[RowIssue]

    def blame(self, role: str, error: RowError) -> None:
        """Takes note of what is wrong with the row's reference for `role`."""
        assert self.parsed is not None
        reference = self.parsed.references()[role]
        column = f"{role}_uri" if isinstance(reference, str) else f"{role}_audio"
        place = (self.source, self.number, self.parsed.id, column, shorten(reference))
        self.issues.append(RowIssue(*place, rule=str(error), way_out="", line=self.line))


def check(
    source: str | Source,
    *,
    storage_options: Mapping[str, Any] | None = None,
    extra_columns: Collection[str] = (),
    reserved: Collection[str] = (),
    defaults: GenerationDefaults = BUILT_IN_DEFAULTS,
    limits: CheckedModel | None = None,
    read_audio: bool | ReferencePolicy = False,
    rejects_uri: str | None = None,
) -> CheckReport:
    """Checks all rows of a manifest, or of what `manifest build` makes one of.

    Args:
        source: A Parquet file, a folder or glob of them, or a table of another form. Where a
            Source says something of it, it is checked as `manifest build` would read it.
        storage_options: fsspec options for s3 and the like, also for the references.
        extra_columns: Columns to carry through although they look like a misspelling.
        reserved: Column names that the output keeps for itself.
        defaults: What rows inherit, for the checks against a model and against audio.
        limits: Of the model that the manifest is for; None leaves those checks out.
        read_audio: Also load every reference that the model takes, as the job does: within the
            given policy, or the default one.
        rejects_uri: Parquet file to write the rejected rows and their problems to.

    Raises:
        ManifestError: The manifest can't be read.
    """
    options = dict(storage_options or {})
    uri, reading = (source, Reading()) if isinstance(source, str) else (source.uri, source.reading)
    opener = None
    if read_audio:
        policy = DEFAULT_POLICY if read_audio is True else read_audio
        opener = ReferenceOpener(ReferenceAccess(policy, options, uri))
    result = _Result()
    with (
        closing(opener) if opener else nullcontext(),
        _open(uri, options, extra_columns, reserved, reading) as opened,
    ):
        for some in _several(opened.rows(result, None)):
            for row in some:
                _check_meaning(row, result.ids, limits)
            if opener:
                _check_audio(some, opener, defaults, limits)
            result.add(some)
        if repeats := result.ids.repeats():
            for row in opened.rows(None, repeats):
                result.add_repeat(row, repeats[row.number])
            result.issues.sort(key=lambda issue: issue.row)
        column_faults, notes = tuple(opened.column_faults()), opened.notes
    rejects_fault = None
    if rejects_uri and result.rejects:
        try:
            rejects = [result.rejects[number] for number in sorted(result.rejects)]
            write_parquet(rejects_uri, REJECTS_SCHEMA, rejects, options)
        except ManifestError as error:  # what is wrong with the rows matters more
            rejects_fault = f"the rejected rows could not be written: {error}"
    return CheckReport(
        result.n_rows,
        result.n_clips,
        column_faults,
        tuple(result.issues),
        rejects_uri if result.rejects and rejects_fault is None else None,
        rejects_fault,
        notes,
    )


# Rows that must be looked at one by one. Given a result, those that need no look are counted there;
# given numbers, these rows alone come.
_Rows = Callable[["_Result | None", "Collection[int] | None"], Iterator[_Row]]


class _Opened(NamedTuple):
    """The rows, what is wrong with the columns, to be asked for when all rows were read, and what
    was found out about the source."""

    rows: _Rows
    column_faults: Callable[[], Sequence[str]]
    notes: tuple[str, ...] = ()


@contextmanager
def _open(
    uri: str,
    options: Mapping[str, Any],
    extra_columns: Collection[str],
    reserved: Collection[str],
    reading: Reading,
) -> Iterator[_Opened]:
    """A manifest as `run` reads it, or else a table as `manifest build` does."""
    if not _is_for_build(uri, options, reading):
        manifest = Manifest.survey(
            uri, storage_options=options, extra_columns=extra_columns, reserved=reserved
        )
        yield _Opened(partial(_parquet_rows, manifest), lambda: manifest.column_faults)
        return
    with Tables([uri], options, reading) as tables:
        names: dict[str, None] = {}

        def column_faults() -> list[str]:
            faults = check_columns([*names], extra_columns, reserved) if names else []
            return [*faults, *tables.faults()]

        def rows(result: _Result | None, only: Collection[int] | None) -> Iterator[_Row]:
            return _table_rows(tables, names, only)

        yield _Opened(rows, column_faults, tuple(tables.notes))


def _is_for_build(uri: str, options: Mapping[str, Any], reading: Reading) -> bool:
    if uri == STDIN or not reading.is_plain:
        return True
    form, compression, _ = named(uri)
    if form is not None or compression is not None:
        return form != "parquet"
    return set(forms_in(uri, options)) - {"parquet"} != set()


def _table_rows(
    tables: Tables, names: dict[str, None], only: Collection[int] | None
) -> Iterator[_Row]:
    """Rows of a table; its columns are added to `names` as they turn up."""
    for found in tables.rows():
        names.update(dict.fromkeys(found.raw))
        if only is None or found.row in only:
            place = (found.base_uri, found.source, found.row, found.line)
            yield _Row(*place, found.raw, *found.parse())


def _parquet_rows(
    manifest: Manifest, result: "_Result | None", only: Collection[int] | None
) -> Iterator[_Row]:
    screen = Screen()
    for row_group in manifest.row_groups:
        columns = manifest.known_columns
        for first_row, batch in manifest.read_row_group(row_group, columns=columns):
            positions = list(range(batch.num_rows))
            if only is not None:
                positions = [at for at in positions if first_row + at in only]
            if result is not None:  # plain rows have nothing that is looked at
                plain, positions = screen.plain_rows(batch)
                result.add_plain(first_row, plain)
            raws = manifest.raw_rows(taken(batch, positions))
            for at, raw in zip(positions, raws, strict=True):
                number = first_row + at
                parsed, issues = parse_row(raw, source=row_group.source, row=number)
                yield _Row(row_group.uri, row_group.source, number, None, raw, parsed, issues)


def _several(rows: Iterator[_Row]) -> Iterator[list[_Row]]:
    while some := list(islice(rows, _ROWS_AT_ONCE)):
        yield some


def _check_meaning(row: _Row, ids: RowIds, limits: CheckedModel | None) -> None:
    """What is wrong beyond the row's own values: the model can't."""
    if row.parsed is None:
        if isinstance(row.raw.get("id"), str):  # a later row with this id repeats it all the same
            ids.note(row.raw["id"], row.number)
        return
    ids.note(row.parsed.id, row.number)
    if limits is None:
        return
    for role in row.parsed.references():
        try:
            check_role(role, limits.name, limits.roles)
        except RowError as error:
            row.blame(role, error)


@dataclass
class _Result:
    """The report while it grows."""

    n_rows: int = 0
    n_clips: int = 0
    issues: list[RowIssue] = field(default_factory=list)
    rejects: dict[int, dict[str, Any]] = field(default_factory=dict)  # by the number of the row
    ids: RowIds = field(default_factory=RowIds)

    def add_plain(self, first_row: int, plain: PlainRows) -> None:
        """Counts rows of which nothing but their ids can be wrong."""
        self.n_rows += len(plain)
        self.n_clips += sum(own.takes or 1 for own in plain.settings)
        numbers = np.array(plain.positions, np.int64) + first_row
        self.ids.note_many(numbers, digests_of(plain.ids))

    def add_repeat(self, row: _Row, repeat: Repeat) -> None:
        """Blames a row that has been counted for the id that it repeats."""
        if row.parsed is None:
            return
        place = (row.source, row.number, row.line, repeat.first_row)
        issue = repeated_id(row.parsed, *place)
        self.issues.append(issue)
        if row.number in self.rejects:
            self.rejects[row.number]["problems"].append(_printable(issue.message))
        else:
            row.issues.append(issue)
            self.rejects[row.number] = _reject(row)
            self.n_clips -= row.parsed.takes or 1

    def add(self, rows: list[_Row]) -> None:
        for row in rows:
            self.n_rows += 1
            self.issues += row.issues
            if row.issues:
                self.rejects[row.number] = _reject(row)
            elif row.parsed is not None:
                self.n_clips += row.parsed.takes or 1


def _reject(row: _Row) -> dict[str, Any]:
    problems = [issue.message for issue in row.issues]
    given = {name: value for name, value in row.raw.items() if value is not None}
    return {
        "source": row.source,
        "row": row.number,
        "line": row.line,
        "id": row.issues[0].id,
        "problems": [_printable(problem) for problem in problems],
        "row_json": json.dumps(given, default=_shown),
    }


def _shown(value: Any) -> Any:
    return repr(value) if isinstance(value, Cell) else shorten(value)


def _printable(text: str) -> str:
    return text.encode(errors="replace").decode()


def _check_audio(
    rows: list[_Row],
    opener: ReferenceOpener,
    defaults: GenerationDefaults,
    limits: CheckedModel | None,
) -> None:
    """What is wrong with the references themselves, except with those that the model can't use."""
    wanted = [
        (row, row.parsed, role, reference)
        for row in rows
        if row.parsed is not None
        for role, reference in row.parsed.references().items()
        if limits is None or role in limits.roles
    ]
    check_audio = check_audio_for_any_model if limits is None else limits.check_audio
    verdicts = opener.judge([(reference, row.manifest_uri) for row, _, _, reference in wanted])
    for (row, parsed, role, _), verdict in zip(wanted, verdicts, strict=True):
        if isinstance(verdict, RowError):
            row.blame(role, verdict)
            continue
        try:
            check_audible(role, verdict.peak)
            check_audio(role, verdict.n_samples, verdict.rate_hz, effective(parsed, defaults))
        except RowError as error:
            row.blame(role, error)
