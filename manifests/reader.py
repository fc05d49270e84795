"""Parquet manifests: a file, a folder or a glob becomes row groups with row numbers over all files.

Known columns keep the types of their file, because `parse_row` judges each value; extra columns
get one type over all files, so that the output's schema does not depend on the order of files.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.columns import all_names, unify_extras, usable_columns
from manifests.redaction import redact, shown_uri
from manifests.schema import AUDIO_COLUMNS, SCHEMA_VERSION, check_columns
from manifests.uris import filesystems
from manifests.uris.errors import StorageError
from manifests.uris.files import RETRY, again, open_file
from manifests.uris.suffixes import named, without_suffix

VERSION_KEY = b"musicgen_batch.manifest_schema"
_ROWS_WITH_AUDIO = 32
_MOST_FOOTERS = 8  # that a process remembers


class ManifestError(ValueError):
    """The manifest as a whole is unusable (exit code 2). What gives access in a URI is left out."""

    def __init__(self, message: str) -> None:
        super().__init__(redact(message))


@dataclass(frozen=True)
class RowGroup:
    """One row group of one file: what a task reads."""

    uri: str
    source: str  # the file as messages name it
    row_group: int
    first_row: int  # number of its first row over the whole manifest
    n_rows: int
    version: str  # of the file, to notice that it was replaced


@dataclass(frozen=True)
class Manifest:
    """An opened manifest; picklable, holds no rows and no open file."""

    uri: str
    row_groups: tuple[RowGroup, ...]
    known_columns: tuple[str, ...]
    extra_schema: pa.Schema
    column_faults: tuple[str, ...]
    storage_options: Mapping[str, Any]

    @classmethod
    def open(
        cls,
        uri: str,
        *,
        storage_options: Mapping[str, Any] | None = None,
        extra_columns: Collection[str] = (),
        reserved: Collection[str] = (),
    ) -> "Manifest":
        """Reads the footers of all files of `uri`: a .parquet file, a folder of them, or a glob.

        Args:
            uri: Path or URL.
            storage_options: fsspec options for s3 and the like.
            extra_columns: Columns to carry through although they look like a misspelling.
            reserved: Column names that the output keeps for itself.

        Raises:
            ManifestError: Missing, empty or not Parquet, or its columns can't be right.
        """
        manifest = cls.survey(
            uri, storage_options=storage_options, extra_columns=extra_columns, reserved=reserved
        )
        if manifest.column_faults:
            raise ManifestError(f"{uri}: " + f"\n{uri}: ".join(manifest.column_faults))
        return manifest

    @classmethod
    def survey(
        cls,
        uri: str,
        *,
        storage_options: Mapping[str, Any] | None = None,
        extra_columns: Collection[str] = (),
        reserved: Collection[str] = (),
    ) -> "Manifest":
        """Like `open`, but leaves what is wrong with the columns in `column_faults`."""
        options = dict(storage_options or {})
        fs, path = open_filesystem(uri, options)
        files = _list_files(fs, uri, path)
        with ThreadPoolExecutor(min(16, len(files))) as pool:
            footers = list(pool.map(lambda file: _read_footer(fs, file), files))
        row_groups = tuple(_row_groups(footers))
        if not row_groups:
            raise ManifestError(f"{uri}: has no rows; add at least one")
        schemas = [(footer.source, footer.schema) for footer in footers]
        faults = check_columns(all_names(schemas), extra_columns, reserved)
        known, type_faults = usable_columns(schemas)
        extra_schema, clashes = unify_extras(schemas)
        return cls(uri, row_groups, known, extra_schema, (*faults, *type_faults, *clashes), options)

    @property
    def n_rows(self) -> int:
        """Rows of all files."""
        return sum(row_group.n_rows for row_group in self.row_groups)

    def read_row_group(
        self, row_group: RowGroup, *, batch_rows: int = 1024, columns: Sequence[str] | None = None
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Streams the rows of one row group.

        Args:
            row_group: One of `row_groups`.
            batch_rows: Rows per batch at most; never over 32 where audio is embedded.
            columns: Which to read; default: the known and the extra columns.

        Yields:
            Global number of the first row, and the rows.

        Raises:
            ManifestError: The file was replaced, or is damaged.
        """
        wanted = [*self.known_columns, *self.extra_schema.names] if columns is None else columns
        if any(name in AUDIO_COLUMNS for name in wanted):
            batch_rows = min(batch_rows, _ROWS_WITH_AUDIO)
        fs, path = open_filesystem(row_group.uri, self.storage_options)
        row = row_group.first_row
        for batch in _batches(fs, path, row_group, wanted, batch_rows):
            yield row, self._typed(batch, wanted)
            row += batch.num_rows

    def _typed(self, batch: pa.RecordBatch, wanted: Sequence[str]) -> pa.RecordBatch:
        """Gives the extra columns the type that they have over all files."""
        arrays = {
            name: batch.column(name) for name in batch.schema.names if name in self.known_columns
        }
        for field in self.extra_schema:
            if field.name not in wanted:
                continue
            if field.name in batch.schema.names:
                arrays[field.name] = batch.column(field.name).cast(field.type, safe=False)
            else:
                arrays[field.name] = pa.nulls(batch.num_rows, field.type)
        return pa.RecordBatch.from_arrays(list(arrays.values()), names=list(arrays))

    def raw_rows(self, batch: pa.RecordBatch) -> list[dict[str, Any]]:
        """The known columns of a batch as `parse_row` takes them."""
        known = [name for name in self.known_columns if name in batch.schema.names]
        rows: list[dict[str, Any]] = batch.select(known).to_pylist()
        return rows


def open_filesystem(uri: str, storage_options: Mapping[str, Any]) -> tuple[Any, str]:
    """An fsspec file system that lists afresh each time, and the path of `uri` in it."""
    try:
        return filesystems.open_filesystem(uri, storage_options, RETRY)
    except StorageError as error:
        raise ManifestError(f"{uri}: {error}") from error


def full_uri(fs: Any, path: str) -> str:
    """What opens `path` from anywhere: an absolute path where it is local, else a URL."""
    uri = str(fs.unstrip_protocol(path))
    return uri.removeprefix("file://")


def absolute_uri(uri: str, storage_options: Mapping[str, Any]) -> str:
    """`uri` as it is valid in any working directory: what relative references count from."""
    return full_uri(*open_filesystem(uri, storage_options))


@dataclass(frozen=True)
class _Footer:
    uri: str
    source: str
    version: str
    group_rows: tuple[int, ...]
    schema: pa.Schema


def attempt(uri: str, action: Callable[[], Any], verb: str = "read") -> Any:
    """Runs an access to `uri`; what goes wrong becomes a ManifestError with the way out."""
    try:
        return action()
    except ManifestError:
        raise
    except FileNotFoundError as error:
        raise ManifestError(f"{uri}: not found; check the path") from error
    except PermissionError as error:
        raise ManifestError(
            f"{uri}: access denied ({error}); check its permissions or credentials"
        ) from error
    except Exception as error:  # stores raise what their client libraries raise
        said = f"{type(error).__name__}: {error}"
        if isinstance(error, pa.ArrowInvalid) and verb == "read":
            said = f"no sound Parquet file: {error}"
        raise ManifestError(
            f"{uri}: can't be {verb} ({said}); check the file, the address and the credentials"
        ) from error


def _list_files(fs: Any, uri: str, path: str) -> list[tuple[str, str]]:
    """Path and short name of each file, sorted by path."""

    def find() -> list[str]:
        if any(letter in path for letter in "*?[") and not fs.exists(path):
            return sorted(name for name in fs.glob(path) if not fs.isdir(name))
        if fs.info(path)["type"] != "directory":
            return [path]
        inside = [PurePosixPath(name) for name in fs.find(path)]
        hidden = (".", "_")
        return sorted(
            str(name)
            for name in inside
            if name.suffix == ".parquet"
            and not any(part.startswith(hidden) for part in name.relative_to(path).parts)
        )

    paths = attempt(uri, lambda: again(uri, find))
    if not paths:
        raise ManifestError(f"{uri}: no .parquet file is there; `musicgen-batch manifest build`")
    if len(paths) == 1:
        return [(paths[0], PurePosixPath(_without_query(paths[0])).name)]
    base = path.split("*")[0].rpartition("/")[0] if "*" in path else path.rstrip("/")
    return [(name, _without_query(name).removeprefix(base).lstrip("/")) for name in paths]


def _without_query(path: str) -> str:
    """The address of a file on the web without what may sign it; another path as it is."""
    return re.split("[?#]", shown_uri(path))[0] if "://" in path else path


def _read_footer(fs: Any, file: tuple[str, str]) -> _Footer:
    path, source = file
    uri = full_uri(fs, path)
    form, compression, suffix = named(path)
    if compression or form not in (None, "parquet"):
        name = _without_query(path)
        raise ManifestError(
            f"{uri}: is a {suffix} file; build it first: musicgen-batch manifest build "
            f"{PurePosixPath(name).name} {without_suffix(name)}.parquet"
        )

    def read() -> _Footer:
        version = again(uri, lambda: _version(fs, path))
        with open_file(fs, uri, path) as stream:
            parquet = pq.ParquetFile(stream)
            schema = parquet.schema_arrow
            groups = range(parquet.num_row_groups)
            rows = tuple(parquet.metadata.row_group(group).num_rows for group in groups)
        written = int((schema.metadata or {}).get(VERSION_KEY, b"0"))
        if written > SCHEMA_VERSION:
            raise ManifestError(
                f"{uri}: has manifest schema {written}, this version knows up to "
                f"{SCHEMA_VERSION}; upgrade musicgen-batch"
            )
        return _Footer(uri, source, version, rows, schema)

    footer: _Footer = attempt(uri, read)
    return footer


def _version(fs: Any, path: str) -> str:
    info = fs.info(path)
    if info["size"] == 0:
        raise ManifestError(f"{full_uri(fs, path)}: is empty (0 bytes); write it again")
    stamp = info.get("ETag") or info.get("etag") or info.get("mtime") or info.get("created")
    return f"{info['size']} {stamp}"


def _row_groups(footers: Sequence[_Footer]) -> Iterator[RowGroup]:
    first_row = 0
    for footer in footers:
        for group, n_rows in enumerate(footer.group_rows):
            if n_rows:
                yield RowGroup(footer.uri, footer.source, group, first_row, n_rows, footer.version)
            first_row += n_rows


_footers: dict[tuple[str, str], pq.FileMetaData] = {}  # of the last files, by version


def _open_parquet(stream: Any, uri: str, version: str) -> pq.ParquetFile:
    """A file whose footer is parsed once: that takes as long as the file has row groups."""
    known = _footers.get((uri, version))
    parquet = pq.ParquetFile(stream, metadata=known)
    if known is None:
        if len(_footers) >= _MOST_FOOTERS:
            _footers.clear()
        _footers[uri, version] = parquet.metadata
    return parquet


def _batches(
    fs: Any, path: str, row_group: RowGroup, columns: Sequence[str], batch_rows: int
) -> Iterator[pa.RecordBatch]:
    uri = row_group.uri
    if attempt(uri, lambda: again(uri, lambda: _version(fs, path))) != row_group.version:
        raise ManifestError(f"{uri}: was replaced while it was being read; start the command again")
    with attempt(uri, lambda: open_file(fs, uri, path)) as stream:
        parquet = attempt(uri, lambda: _open_parquet(stream, uri, row_group.version))
        present = [name for name in columns if name in parquet.schema_arrow.names]
        batches = parquet.iter_batches(
            batch_rows, row_groups=[row_group.row_group], columns=present
        )
        while True:
            batch = attempt(uri, lambda: next(batches, None))
            if batch is None:
                return
            attempt(uri, partial(batch.validate, full=True))  # text that is no UTF-8
            yield batch
