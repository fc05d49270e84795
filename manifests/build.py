"""JSONL or CSV to Parquet: what `musicgen-batch manifest build` does.

Two passes over the text: the first checks every row and finds the types of the extra columns, the
second writes. Nothing is published unless every row is right. A row without an id gets the hash of
its content written down, so that the id does not hang on where the manifest lies.
"""

import os
import posixpath
import re
import tempfile
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
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
    COLUMNS,
    ROLES,
    SCHEMA_VERSION,
    PromptRow,
    RowIssue,
    check_columns,
    resolve_uri,
)
from manifests.text import TextRow, read_text
from manifests.uris.files import again

ROWS_PER_GROUP = 10_000
_CSV_TYPES = (
    (pa.int64(), re.compile(r"-?(0|[1-9][0-9]{0,17})"), int),
    (pa.float64(), re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?"), float),
    (pa.bool_(), re.compile(r"true|false|True|False|TRUE|FALSE"), lambda s: s.lower() == "true"),
)


@dataclass(frozen=True)
class BuildSummary:
    """What a build found; `out_uri` is None where nothing was written."""

    n_rows: int
    n_clips: int
    extra_columns: tuple[str, ...]
    column_faults: tuple[str, ...]
    issues: tuple[RowIssue, ...]
    out_uri: str | None


def repeated_id(
    row: PromptRow, source: str, number: int, line: int | None, first_row: int
) -> RowIssue:
    """What is wrong with a row whose id an earlier row has."""
    rule = f"is also the id of row {first_row}"
    way_out = "give each row its own id, or use `takes` for several clips of one row"
    return RowIssue(source, number, row.id, "id", shorten(row.id), rule, way_out, line)


def build(
    in_uri: str,
    out_uri: str,
    *,
    storage_options: Mapping[str, Any] | None = None,
    extra_columns: Collection[str] = (),
    reserved: Collection[str] = (),
) -> BuildSummary:
    """Writes the Parquet manifest of a .jsonl or .csv file, unless anything is wrong with it.

    Args:
        in_uri: The text; its relative references count from its own folder.
        out_uri: The .parquet file; references are rewritten so that they count from its folder.
        storage_options: fsspec options for s3 and the like.
        extra_columns: Columns to carry through although they look like a misspelling.
        reserved: Column names that the output keeps for itself.

    Raises:
        ManifestError: `in_uri` can't be read, or `out_uri` can't be written.
    """
    options = dict(storage_options or {})
    if not out_uri.endswith(".parquet"):
        raise ManifestError(f"{out_uri}: the output's name must end with .parquet")
    survey = _Survey()
    for text in read_text(in_uri, options):
        survey.add(text)
    if repeats := survey.ids.repeats():
        survey.add_repeats(read_text(in_uri, options), repeats)
    names = survey.names()
    faults = (*check_columns(names, extra_columns, reserved), *survey.clashes.values())
    extras = tuple(name for name in names if name not in COLUMNS)
    found = (survey.n_rows, survey.n_clips, extras, faults, tuple(survey.issues))
    if faults or survey.issues:
        return BuildSummary(*found, out_uri=None)
    schema = survey.schema()
    here, there = (absolute_uri(uri, options) for uri in (in_uri, out_uri))
    rows = (_out_row(text, schema, here, there) for text in read_text(in_uri, options))
    write_parquet(out_uri, schema, rows, options)
    return BuildSummary(*found, out_uri=out_uri)


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

    def add(self, text: TextRow) -> None:
        row, issues = text.parse()
        if row is not None:
            self.ids.note(row.id, text.row)
            self.n_clips += row.takes
        self.issues += issues
        self.n_rows += 1
        for name, value in text.raw.items():
            if name in COLUMNS:
                self._known[name] = None
            else:
                self._widen(name, value, text)

    def add_repeats(self, texts: Iterable[TextRow], repeats: Mapping[int, Repeat]) -> None:
        """Takes note of the rows that repeat an id."""
        for text in texts:
            if text.row in repeats and (row := text.parse()[0]) is not None:
                first = repeats[text.row].first_row
                self.issues.append(repeated_id(row, text.source, text.row, text.line, first))
        self.issues.sort(key=lambda issue: issue.row)

    def _widen(self, name: str, value: Any, text: TextRow) -> None:
        so_far = self._kinds.setdefault(name, pa.null())
        if so_far == pa.string() and isinstance(value, str) and text.is_csv:
            return
        kind = _csv_type(value) if text.is_csv else _json_type(value)
        if kind == so_far:
            return
        merged = None if kind is None else wider_type(so_far, kind)
        if merged is None and text.is_csv:
            merged = pa.string()
        if merged is not None:
            self._kinds[name] = merged
        elif name not in self.clashes:
            self.clashes[name] = (
                f"column {name!r} has no single type: {so_far} before line {text.line}, there "
                f"{shorten(value)}; give all its values one type"
            )

    def names(self) -> list[str]:
        return [*self._known, *self._kinds]

    def schema(self) -> pa.Schema:
        known = known_schema({"id", *self._known})
        extras = [pa.field(name, final_type(kind)) for name, kind in self._kinds.items()]
        version = {VERSION_KEY: str(SCHEMA_VERSION).encode()}
        return pa.schema([*known, *extras], metadata=version)


def _json_type(value: Any) -> pa.DataType | None:
    try:
        return pa.array([value]).type
    except (pa.ArrowException, OverflowError, UnicodeError):
        return None


def _csv_type(value: str | None) -> pa.DataType:
    if value is None:
        return pa.null()
    return next((kind for kind, form, _ in _CSV_TYPES if form.fullmatch(value)), pa.string())


def _out_row(text: TextRow, schema: pa.Schema, in_uri: str, out_uri: str) -> dict[str, Any]:
    """What is written of a row: checked values, references that count from the output's folder."""
    row, issues = text.parse()
    if row is None:
        raise ManifestError(f"{in_uri}: changed while it was read ({issues[0].message}); try again")
    known = row.model_dump()
    for role in ROLES:
        if known[f"{role}_uri"] is not None:
            known[f"{role}_uri"] = rebase(known[f"{role}_uri"], in_uri, out_uri)
    given: dict[str, Any] = {}
    for column in schema:
        value = text.raw.get(column.name)
        if column.name in COLUMNS:
            value = known[column.name]
        elif value is not None and text.is_csv:
            value = _csv_value(value, column.type)
        given[column.name] = value
    return given


def _csv_value(value: str, kind: pa.DataType) -> Any:
    return next((convert(value) for known, _, convert in _CSV_TYPES if known == kind), value)


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
        for chunk in _chunks(rows):
            table = pa.Table.from_pylist(chunk, schema)
            attempt(uri, partial(writer.write_table, table), "written")
        attempt(uri, writer.close, "written")
        file.flush()
        os.fsync(file.fileno())


def _chunks(rows: Iterable[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    chunk: list[Mapping[str, Any]] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == ROWS_PER_GROUP:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
