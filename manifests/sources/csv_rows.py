"""CSV and TSV, row by row: what can't be parsed is a fault of its row, not a crash.

There is a header; blank lines don't count as rows; an empty field is null, and known columns take
their type from the schema.
"""

import csv
import io
import re
from collections.abc import Collection, Iterator
from itertools import islice
from typing import TextIO

from manifests.messages import shorten
from manifests.reader import ManifestError, attempt
from manifests.schema import COLUMNS
from manifests.sources.encoding import find_encoding, open_text
from manifests.sources.inputs import InputFile
from manifests.sources.options import Reading, field_hint
from manifests.sources.packed import refuse_other_forms
from manifests.sources.rows import SourceRow, typed

_DELIMITERS = ",;\t|"  # the first of equals is taken
_SAMPLE, _SAMPLE_ROWS = 2**16, 20
_SAID = re.compile(r"sep=(.)\r?\n?")  # Excel's own way to say it, in a line before the header


class CsvFile:
    """A file of text with a header and separated fields."""

    def __init__(self, file: InputFile, reading: Reading) -> None:
        self._file = file
        with file.open() as stream:
            head = attempt(file.uri, lambda: stream.read(8))
        refuse_other_forms(file.uri, head, file.form)
        self._encoding, note = find_encoding(file.uri, file.open, reading.encoding)
        self.notes = [note] if note else []
        self._wanted = {*COLUMNS, *reading.columns.values()}
        self._delimiter, self._skips_line = self._find_delimiter(reading)
        self.names = self._read_header()

    def _find_delimiter(self, reading: Reading) -> tuple[str, bool]:
        with open_text(self._file.open(), self._encoding) as stream:
            text = attempt(self._file.uri, lambda: stream.read(_SAMPLE))
        said = _SAID.match(text)
        if reading.delimiter is not None:
            return reading.delimiter, said is not None
        if said is not None:
            return said[1], True
        if self._file.form == "tsv":
            return "\t", False
        found = sniff(text, self._wanted, whole=len(text) < _SAMPLE)
        if found != ",":
            self.notes.append(f"{self._file.uri}: its fields are separated by {field_hint(found)}")
        return found, False

    def _read_header(self) -> list[str]:
        uri = self._file.uri
        try:
            _, fields = next(self._records(), (1, None))
        except csv.Error as error:
            raise ManifestError(f"{uri}: its header is not readable CSV ({error})") from error
        if fields is None:
            return []
        names = [name.strip() for name in fields]
        self._refuse_one_field(names)
        if not all(names):
            column = names.index("") + 1
            raise ManifestError(
                f"{uri}: column {column} has no name; name it or remove it (pandas: index=False)"
            )
        doubled = [name for name in dict.fromkeys(names) if names.count(name) > 1]
        if doubled:
            raise ManifestError(
                f"{uri}: column {doubled[0]!r} stands there more than once; keep one"
            )
        return names

    def _refuse_one_field(self, names: list[str]) -> None:
        """Raises where a header of one field is made of columns that something else separates."""
        if len(names) != 1 or names[0] in self._wanted:
            return
        for mark in dict.fromkeys(re.findall(r"[^\w\"' .-]", names[0])):
            pieces = [piece.strip(" \"'") for piece in names[0].split(mark)]
            if self._wanted.intersection(pieces):
                raise ManifestError(
                    f"{self._file.uri}: its header {shorten(names[0])} is one field, because "
                    f"{field_hint(self._delimiter)} does not separate it; name what does with "
                    f"--delimiter {field_hint(mark)}"
                )

    def _records(self) -> Iterator[tuple[int, list[str]]]:
        """Line and fields of each record that is not blank; csv.Error where the file breaks off."""
        with open_text(self._file.open(), self._encoding) as stream:
            # strict: a quote that is never closed is an error, not a row that holds all the rest
            lines = _lines(self._file.uri, stream)
            reader = csv.reader(lines, delimiter=self._delimiter, strict=True)
            if self._skips_line:
                next(reader, None)
            begins = reader.line_num + 1
            while True:
                try:
                    fields = next(reader)
                except StopIteration:
                    return
                except csv.Error as error:
                    raise _BrokenOffError(str(error), begins) from error
                if any(field.strip() for field in fields):
                    yield begins, fields
                begins = reader.line_num + 1

    def rows(self, first_row: int) -> Iterator[SourceRow]:
        """The rows below the header, numbered from `first_row`."""
        source, base, row = self._file.source, self._file.base_uri, first_row
        records = self._records()
        next(records, None)
        try:
            for line, fields in records:
                yield self._row(row, line, fields)
                row += 1
        except _BrokenOffError as error:
            way_out = 'close every quote, and write " inside text as ""'
            rule = f"is not readable CSV ({error}), and what follows was not read"
            broken = ("the file", rule, way_out)
            yield SourceRow(source, row, error.line, {}, base, True, broken)

    def _row(self, row: int, line: int, fields: list[str]) -> SourceRow:
        pairs = zip(self.names, fields, strict=False)
        raw = {name: typed(name, field) for name, field in pairs}
        broken = None
        if len(fields) != len(self.names):
            mark = field_hint(self._delimiter)
            rule = f"has {len(fields)} fields, the header has {len(self.names)}"
            way_out = f'write one field per column, and text that holds {mark} in quotes: "a, b"'
            broken = (shorten(self._delimiter.join(fields)), rule, way_out)
        return SourceRow(self._file.source, row, line, raw, self._file.base_uri, True, broken)


class _BrokenOffError(csv.Error):
    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


def _lines(uri: str, stream: TextIO) -> Iterator[str]:
    while line := attempt(uri, stream.readline):
        yield line


def sniff(text: str, wanted: Collection[str], *, whole: bool = True) -> str:
    """What separates the fields of CSV: what gives the most known columns, then rows as long as
    the header. A header of a single field has commas.

    Args:
        text: The first lines.
        wanted: Columns that may stand in the header.
        whole: Whether the text is the whole file; else its last row is cut.
    """
    best, found = (0, 0.0), ","
    for delimiter in _DELIMITERS:
        records = _some_records(text, delimiter, whole)
        if not records or len(records[0]) < 2:
            continue
        header, *rows = records
        known = sum(name.strip() in wanted for name in header)
        fitting = sum(len(row) == len(header) for row in rows)
        score = (known, fitting / len(rows) if rows else 1.0)
        if score > best:
            best, found = score, delimiter
    return found


def _some_records(text: str, delimiter: str, whole: bool) -> list[list[str]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        records = list(islice(reader, _SAMPLE_ROWS))
    except csv.Error:
        return []
    if not whole and len(records) < _SAMPLE_ROWS:
        records = records[:-1]
    return [fields for fields in records if any(field.strip() for field in fields)]
