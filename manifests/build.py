"""Tables of any form to one Parquet manifest: what `musicgen-batch manifest build` does.

Two passes over the rows: the first checks every row and finds the types of the extra columns, the
second writes. Nothing is published unless every row is right. A row without an id gets the hash of
its content written down, so that the id does not hang on where the manifest lies.
"""

import os
import posixpath
import tempfile
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.bulk.repeats import Repeat, RowIds
from manifests.columns import final_type, known_schema, wider_type
from manifests.messages import shorten
from manifests.reader import (
    VERSION_KEY,
    ManifestError,
    absolute_uri,
    attempt,
    full_uri,
    open_filesystem,
)
from manifests.schema import (
    AUDIO_COLUMNS,
    COLUMNS,
    ROLES,
    SCHEMA_VERSION,
    PromptRow,
    RowIssue,
    check_columns,
    resolve_uri,
)
from manifests.sources.options import STDIN, Reading
from manifests.sources.rows import Cell, SourceRow, arrow_column, as_type, text_type
from manifests.sources.sweep import Sweep
from manifests.sources.tables import Tables
from manifests.uris.files import again

ROWS_PER_GROUP = 10_000
MOST_AUDIO_BYTES = 64 * 2**20  # embedded in one row group, beyond its last row


@dataclass(frozen=True)
class BuildSummary:
    """What a build found; `out_uri` is None where nothing was written."""

    n_rows: int
    n_clips: int
    extra_columns: tuple[str, ...]
    column_faults: tuple[str, ...]
    issues: tuple[RowIssue, ...]
    out_uri: str | None
    notes: tuple[str, ...] = ()  # what was found out about the sources, and how they were read


def repeated_id(
    row: PromptRow, source: str, number: int, line: int | None, first_row: int
) -> RowIssue:
    """What is wrong with a row whose id an earlier row has."""
    rule = f"is also the id of row {first_row}"
    way_out = "give each row its own id, or use `takes` for several clips of one row"
    return RowIssue(source, number, row.id, "id", shorten(row.id), rule, way_out, line)


def build(
    in_uris: str | Sequence[str],
    out_uri: str,
    *,
    reading: Reading | None = None,
    sweep: Sweep | None = None,
    storage_options: Mapping[str, Any] | None = None,
    extra_columns: Collection[str] = (),
    reserved: Collection[str] = (),
) -> BuildSummary:
    """Writes the Parquet manifest of some tables, unless anything is wrong with them.

    Args:
        in_uris: CSV, TSV, JSON, JSON Lines, XLSX, Parquet or Arrow: files, globs, folders, or `-`
            for standard input; none where a sweep makes the rows. Relative references count from
            the folder of their file.
        out_uri: The .parquet file; references are rewritten so that they count from its folder.
        reading: What the names and contents of the files do not say.
        sweep: Makes several rows of each row, or rows from nothing.
        storage_options: fsspec options for s3 and the like.
        extra_columns: Columns to carry through although they look like a misspelling.
        reserved: Column names that the output keeps for itself.

    Raises:
        ManifestError: A source can't be read, or `out_uri` can't be written.
    """
    options = dict(storage_options or {})
    uris = [in_uris] if isinstance(in_uris, str) else list(in_uris)
    if not out_uri.endswith(".parquet"):
        raise ManifestError(f"{out_uri}: the output's name must end with .parquet")
    there = absolute_uri(out_uri, options)
    if there in [absolute_uri(uri, options) for uri in uris if uri != STDIN]:
        raise ManifestError(f"{out_uri}: is also read; give the output another name")
    with ExitStack() as stack:
        tables = stack.enter_context(Tables(uris, options, reading)) if uris else None
        rows_of, notes = _rows_of(tables, sweep)
        survey = _Survey()
        for found in rows_of():
            survey.add(found)
        if repeats := survey.ids.repeats():
            survey.add_repeats(rows_of(), repeats)
        names = survey.names()
        type_faults = tables.faults() if tables else []
        clashes = survey.clashes.values()
        faults = (*check_columns(names, extra_columns, reserved), *type_faults, *clashes)
        extras = tuple(name for name in names if name not in COLUMNS)
        found_all = (survey.n_rows, survey.n_clips, extras, faults, tuple(survey.issues))
        if faults or survey.issues:
            return BuildSummary(*found_all, out_uri=None, notes=notes)
        schema = survey.schema()
        rows = (_out_row(found, schema, there) for found in rows_of())
        write_parquet(out_uri, schema, rows, options)
        return BuildSummary(*found_all, out_uri=out_uri, notes=notes)


def _rows_of(
    tables: Tables | None, sweep: Sweep | None
) -> tuple[Callable[[], Iterator[SourceRow]], tuple[str, ...]]:
    """What gives all rows, each time that it is called, and what is to be said of them."""
    notes = tuple(tables.notes) if tables else ()
    if sweep is None:
        if tables is None:
            raise ManifestError("nothing is named to build from; name a file, or give --matrix")
        return tables.rows, notes
    swept = sweep.over(tables.rows if tables else None)
    return swept.rows, (*notes, *swept.notes)


@dataclass
class _Survey:
    """The first pass: counts, issues, and the type of each extra column."""

    n_rows: int = 0
    n_clips: int = 0
    issues: list[RowIssue] = field(default_factory=list)
    clashes: dict[str, str] = field(default_factory=dict)  # column to fault
    _known: dict[str, None] = field(default_factory=dict)
    _kinds: dict[str, pa.DataType] = field(default_factory=dict)
    ids: RowIds = field(default_factory=RowIds)
    _typed: set[str] = field(default_factory=set)  # extra columns with values that are not text

    def add(self, found: SourceRow) -> None:
        row, issues = found.parse()
        if row is not None:
            self.ids.note(row.id, found.row)
            self.n_clips += row.takes or 1
        self.issues += issues
        self.n_rows += 1
        for name, value in found.raw.items():
            if name in COLUMNS:
                self._known[name] = None
            else:
                self._widen(name, value, found)

    def add_repeats(self, rows: Iterable[SourceRow], repeats: Mapping[int, Repeat]) -> None:
        """Takes note of the rows that repeat an id."""
        for found in rows:
            if found.row in repeats and (row := found.parse()[0]) is not None:
                first = repeats[found.row].first_row
                self.issues.append(repeated_id(row, found.source, found.row, found.line, first))
        self.issues.sort(key=lambda issue: issue.row)

    def _widen(self, name: str, value: Any, found: SourceRow) -> None:
        so_far = self._kinds.setdefault(name, pa.null())
        is_text = found.is_text and (value is None or isinstance(value, str))
        if so_far == pa.string() and isinstance(value, str) and is_text:
            return
        kind = text_type(value) if is_text else _type_of(value)
        if not is_text and kind is not None and not pa.types.is_null(kind):
            self._typed.add(name)
        if kind == so_far:
            return
        merged = None if kind is None else wider_type(so_far, kind)
        if merged is None and is_text and name not in self._typed:
            merged = pa.string()
        if merged is not None:
            self._kinds[name] = merged
        elif name not in self.clashes:
            place = f"row {found.row}" if found.line is None else f"line {found.line}"
            self.clashes[name] = (
                f"column {name!r} has no single type: {so_far} before {place} of {found.source}, "
                f"there {shorten(value)}; give all its values one type"
            )

    def names(self) -> list[str]:
        return [*self._known, *self._kinds]

    def schema(self) -> pa.Schema:
        known = known_schema({"id", *self._known})
        extras = [pa.field(name, final_type(kind)) for name, kind in self._kinds.items()]
        version = {VERSION_KEY: str(SCHEMA_VERSION).encode()}
        return pa.schema([*known, *extras], metadata=version)


def _type_of(value: Any) -> pa.DataType | None:
    if isinstance(value, Cell):
        return value.column.type
    try:
        return pa.array([value]).type
    except (pa.ArrowException, OverflowError, UnicodeError):
        return None


def _out_row(found: SourceRow, schema: pa.Schema, out_uri: str) -> dict[str, Any]:
    """What is written of a row: checked values, references that count from the output's folder."""
    row, issues = found.parse()
    if row is None:
        raise ManifestError(
            f"{found.source}: changed while it was read ({issues[0].message}); try again"
        )
    known = row.model_dump()
    for role in ROLES:
        if known[f"{role}_uri"] is not None:
            known[f"{role}_uri"] = rebase(known[f"{role}_uri"], found.base_uri, out_uri)
    given: dict[str, Any] = {}
    for column in schema:
        value = found.raw.get(column.name)
        if column.name in COLUMNS:
            value = known[column.name]
        elif isinstance(value, str) and found.is_text:
            value = as_type(value, column.type)
        given[column.name] = value
    return given


def rebase(uri: str, in_uri: str, out_uri: str) -> str:
    """A reference of the manifest at `in_uri`, as one at `out_uri` must write it.

    Relative stays relative where both lie in one store; else the whole address is written.
    """
    whole = resolve_uri(uri, in_uri)
    if whole == uri:
        return uri
    store, folder = _split(posixpath.dirname(out_uri))
    whole_store, path = _split(whole)
    return posixpath.relpath(path, folder) if store == whole_store else whole


def _split(uri: str) -> tuple[str, str]:
    """Store (bucket and all) and the absolute path in it."""
    scheme, separator, rest = uri.rpartition("://")
    if not separator:
        return "", uri
    bucket, _, path = rest.partition("/")
    return f"{scheme}://{bucket}", f"/{path}"


def write_parquet(
    uri: str,
    schema: pa.Schema,
    rows: Iterable[Mapping[str, Any]],
    storage_options: Mapping[str, Any],
) -> None:
    """Streams rows into a Parquet file that appears whole or not at all."""
    fs, path = open_filesystem(uri, storage_options)
    local = full_uri(fs, path) == path
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(path).parent if local else Path(scratch)
        temporary = folder / f".{Path(path).name}.{uuid.uuid4().hex}.tmp"
        try:
            attempt(uri, lambda: folder.mkdir(parents=True, exist_ok=True), "written")
            _write_rows(uri, temporary, schema, rows)
            if local:
                attempt(uri, lambda: temporary.replace(path), "written")
            else:
                put = partial(fs.put_file, str(temporary), path)
                attempt(uri, lambda: again(uri, put), "written")
        finally:
            with suppress(FileNotFoundError, NotADirectoryError):
                temporary.unlink()


def _write_rows(uri: str, path: Path, schema: pa.Schema, rows: Iterable[Mapping[str, Any]]) -> None:
    with attempt(uri, lambda: path.open("wb"), "written") as file:
        writer = pq.ParquetWriter(file, schema, compression="zstd")
        try:
            for chunk in _chunks(rows):
                attempt(uri, partial(writer.write_table, _table(chunk, schema)), "written")
        except BaseException:
            with suppress(Exception):
                writer.close()
            raise
        attempt(uri, writer.close, "written")
        file.flush()
        os.fsync(file.fileno())


def _table(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    columns = [arrow_column([row.get(f.name) for row in rows], f.type) for f in schema]
    return pa.Table.from_arrays(columns, schema=schema)


def _chunks(rows: Iterable[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    chunk: list[Mapping[str, Any]] = []
    n_bytes = 0
    for row in rows:
        chunk.append(row)
        n_bytes += sum(len(row.get(name) or b"") for name in AUDIO_COLUMNS)
        if len(chunk) == ROWS_PER_GROUP or n_bytes >= MOST_AUDIO_BYTES:
            yield chunk
            chunk, n_bytes = [], 0
    if chunk:
        yield chunk
