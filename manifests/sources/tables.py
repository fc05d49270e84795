"""All rows of all sources: what `manifest build` goes over twice."""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from manifests.columns import usable_columns
from manifests.reader import ManifestError
from manifests.sources.arrow_rows import ArrowFile, renamed
from manifests.sources.csv_rows import CsvFile
from manifests.sources.inputs import InputFile, find_inputs
from manifests.sources.json_rows import JsonFile, JsonLinesFile
from manifests.sources.mapping import ColumnMap, column_map
from manifests.sources.options import Reading
from manifests.sources.rows import SourceRow
from manifests.sources.xlsx_rows import XlsxFile
from manifests.uris.suffixes import Form


class Table(Protocol):
    """One opened file, of any form."""

    notes: list[str]

    @property
    def names(self) -> list[str]: ...

    def rows(self, first_row: int) -> Iterator[SourceRow]: ...


_FORMS: dict[Form, Callable[[InputFile, Reading], Table]] = {
    "csv": CsvFile,
    "tsv": CsvFile,
    "json": JsonFile,
    "jsonl": JsonLinesFile,
    "xlsx": XlsxFile,
    "parquet": ArrowFile,
    "arrow": ArrowFile,
}


class Tables:
    """The rows of some files, one after the other. Use as a context: it may hold a copy of stdin.

    Args:
        uris: Paths, URLs, globs, folders, or `-`.
        storage_options: fsspec options.
        reading: What the user says of the files.

    Raises:
        ManifestError: A file can't be read, or there is no row.
    """

    def __init__(
        self,
        uris: Sequence[str],
        storage_options: Mapping[str, Any] | None = None,
        reading: Reading | None = None,
    ) -> None:
        self._scratch = tempfile.TemporaryDirectory()
        reading = reading or Reading()
        try:
            inputs = find_inputs(uris, storage_options or {}, reading, Path(self._scratch.name))
            self._files: list[tuple[InputFile, Table]] = [
                (file, _FORMS[file.form](file, reading)) for file in inputs.files
            ]
            self.notes = [
                *inputs.notes,
                *(note for _, table in self._files for note in table.notes),
            ]
            self._map = self._column_map(reading)
        except BaseException:
            self._scratch.cleanup()
            raise

    def __enter__(self) -> "Tables":
        return self

    def __exit__(self, *error: object) -> None:
        self._scratch.cleanup()

    def _column_map(self, reading: Reading) -> ColumnMap:
        if not reading.columns:
            return ColumnMap()
        names = dict.fromkeys(name for _, table in self._files for name in table.names)
        found = column_map(reading.columns, names)
        self.notes.append(found.words())
        return found

    def faults(self) -> list[str]:
        """What is wrong with the types of known columns, in files that have types."""
        schemas = [
            (file.source, renamed(table.schema, self._map.sources))
            for file, table in self._files
            if isinstance(table, ArrowFile)
        ]
        return usable_columns(schemas)[1]

    def rows(self) -> Iterator[SourceRow]:
        """All rows, numbered over all files."""
        row = 0
        for _, table in self._files:
            for found in table.rows(row):
                yield self._map.apply(found)
                row = found.row + 1
        if row == 0:
            uris = ", ".join(file.uri for file, _ in self._files[:3])
            raise ManifestError(f"{uris}: has no rows; add at least one")
