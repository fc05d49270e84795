"""`metadata.parquet`: the rows of all clips whose audio lies in files, with the column `file_name`
by which the audiofolder of Hugging Face `datasets` finds the audio.

It is written to a file of this machine, some thousands of rows at a time, and then published as a
whole.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.ledger.names import METADATA
from pipeline.ledger.output_schema import with_all_columns
from pipeline.ledger.parts import UnreadablePartError
from pipeline.storage import Storage

STATE_KEY = b"musicgen_batch.state"
ROWS_PER_GROUP = 4096  # `datasets` makes Python objects of a row group at a time
_LEFT_OUT = ("audio_path", "audio_member")


def metadata_schema(clips: pa.Schema, state: str) -> pa.Schema:
    """The columns of `metadata.parquet`: those of `clips/`, with `file_name` for the audio."""
    fields = [field for field in clips if field.name not in _LEFT_OUT]
    return pa.schema([pa.field("file_name", pa.string()), *fields], {STATE_KEY: state.encode()})


class MetadataFile:
    """Collects the rows in a file; a context manager that closes it.

    Args:
        file: where to.
        clips: the columns of `clips/`.
        state: of the snapshot that the rows are of.

    Attributes:
        n_rows: written so far.
    """

    def __init__(self, file: Path, clips: pa.Schema, state: str) -> None:
        self._clips = clips
        self._schema = metadata_schema(clips, state)
        self._writer = pq.ParquetWriter(file, self._schema, compression="zstd")
        self._waiting: list[pa.Table] = []
        self.n_rows = 0

    def add(self, rows: pa.Table) -> None:
        """Adds the rows of a part; those whose audio lies in a tar are left out."""
        rows = with_all_columns(rows, self._clips)
        rows = rows.filter(pc.is_null(rows["audio_member"]))
        rows = rows.append_column("file_name", rows["audio_path"]).select(self._schema.names)
        self._waiting.append(rows.cast(self._schema))
        self.n_rows += len(rows)
        if sum(map(len, self._waiting)) >= ROWS_PER_GROUP:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            rows = pa.concat_tables(self._waiting)
            self._waiting = []
            self._writer.write_table(rows, row_group_size=ROWS_PER_GROUP)

    def __enter__(self) -> MetadataFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._flush()
        self._writer.close()


def standing_state(storage: Storage) -> tuple[bool, str | None]:
    """Whether a `metadata.parquet` lies in an output, and the state that it is of; that is None
    where this program did not write it."""
    size = storage.size(METADATA)
    if size is None:
        return False, None
    try:
        with pq.ParquetFile(storage.open_range(METADATA, size)) as file:
            told = (file.schema_arrow.metadata or {}).get(STATE_KEY)
    except (pa.ArrowException, UnreadablePartError):
        return True, None
    return True, None if told is None else told.decode()
