"""Parquet and Arrow files: known columns as Python values, extra columns as Arrow has them, so
that any type passes through untouched."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.columns import plain_type
from manifests.reader import ManifestError, attempt
from manifests.schema import AUDIO_COLUMNS, COLUMNS
from manifests.sources.inputs import InputFile
from manifests.sources.options import Reading
from manifests.sources.rows import Cell, SourceRow

_ROWS, _ROWS_WITH_AUDIO = 1024, 32


class ArrowFile:
    """A file of typed columns."""

    def __init__(self, file: InputFile, reading: Reading) -> None:
        self._file = file
        self.notes: list[str] = []
        if file.form == "parquet":
            with file.open() as stream:
                if not stream.read(1):
                    raise ManifestError(f"{file.uri}: is empty (0 bytes); write it again")
        for schema, _ in self._batches():
            self.schema: pa.Schema = schema
            break
        doubled = [name for name in self.schema.names if self.schema.names.count(name) > 1]
        if doubled:
            raise ManifestError(
                f"{file.uri}: column {doubled[0]!r} stands there more than once; keep one"
            )
        # Columns that `--map` makes known ones: their values are judged row by row.
        self._known = {*COLUMNS, *reading.columns.values()}

    @property
    def names(self) -> list[str]:
        """The columns, in the order of the file."""
        return list(self.schema.names)

    def rows(self, first_row: int) -> Iterator[SourceRow]:
        """All rows, numbered from `first_row`."""
        row = first_row
        for _, batch in self._batches():
            if batch is None:
                continue
            columns = {name: self._values(name, batch[name]) for name in batch.schema.names}
            for index in range(batch.num_rows):
                raw = {name: values[index] for name, values in columns.items()}
                yield SourceRow(self._file.source, row, None, raw, self._file.base_uri)
                row += 1

    def _values(self, name: str, column: pa.Array) -> Any:
        if name in self._known:
            return attempt(self._file.uri, column.to_pylist)
        kind = plain_type(column.type)
        plain = column if kind == column.type else column.cast(kind)
        return [Cell(plain, index) for index in range(len(plain))]

    def _batches(self) -> Iterator[tuple[pa.Schema, pa.RecordBatch | None]]:
        """The schema alone, then with each batch of rows."""
        uri = self._file.uri
        read = _parquet_batches if self._file.form == "parquet" else _arrow_batches
        with self._file.open() as stream:
            schema, batches = attempt(uri, partial(read, stream, uri))
            yield schema, None
            while (batch := attempt(uri, partial(next, batches, None))) is not None:
                attempt(uri, partial(batch.validate, full=True))  # text that is no UTF-8
                for start in range(0, batch.num_rows, _ROWS):
                    yield schema, batch.slice(start, _ROWS)


def _parquet_batches(stream: Any, uri: str) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    parquet = pq.ParquetFile(stream)
    schema = parquet.schema_arrow
    rows = _ROWS_WITH_AUDIO if any(_holds_bytes(field) for field in schema) else _ROWS
    return schema, iter(parquet.iter_batches(rows))


def _holds_bytes(field: pa.Field) -> bool:
    kind = plain_type(field.type)
    return field.name in AUDIO_COLUMNS or pa.types.is_struct(kind) or kind == pa.binary()


def _arrow_batches(stream: Any, uri: str) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """Of a file or a stream; Hugging Face writes streams."""
    with suppress(pa.ArrowInvalid):
        reader = pa.ipc.open_file(pa.PythonFile(stream, mode="r"))
        return reader.schema, (reader.get_batch(i) for i in range(reader.num_record_batches))
    stream.seek(0)
    try:
        reader = pa.ipc.open_stream(pa.PythonFile(stream, mode="r"))
    except (pa.ArrowInvalid, OSError) as error:
        raise ManifestError(
            f"{uri}: is neither an Arrow file nor a stream ({error}); write it again, as Parquet"
        ) from error
    return reader.schema, iter(reader)


def renamed(schema: pa.Schema, sources: Mapping[str, str]) -> pa.Schema:
    """The schema under the names that `--map` gives: target to source column."""
    kept = [field for field in schema if field.name not in {*sources.values(), *sources}]
    mapped = [
        pa.field(target, schema.field(source).type)
        for target, source in sources.items()
        if source in schema.names
    ]
    return pa.schema([*mapped, *kept])
