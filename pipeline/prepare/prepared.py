"""The record that travels from the prepare pool to a replica, written and read here alone.

One row of the table is a clip with its references at hand, or a dead letter that a replica commits
in its place. The manifest's extra columns travel beside, under names that none of ours can have.

Ray cuts blocks by rows. A clip with large references is therefore followed by empty rows, one per
`ROW_BYTES`, so that a block of n rows holds about n * ROW_BYTES at most, and one clip more.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.planning.clips import ClipSpec, DeadLetter

Samples = NDArray[np.float32]  # [C, N] at the model's rate and channels
PitchClasses = NDArray[np.uint8]  # [n], or [W, n] where the clip is made in W > 1 windows

EXTRA = "extra."
EMPTY = "empty"  # kind of a row that only takes room
ROW_BYTES = 8 * 2**20

PREPARED_SCHEMA = pa.schema(
    [
        ("kind", pa.string()),  # "clip", "dead_letter" or EMPTY
        ("spec", pa.string()),  # JSON of the ClipSpec or of the DeadLetter; null in an empty row
        ("n_frames", pa.int32()),
        ("n_windows", pa.int32()),
        ("channels", pa.int32()),  # of continuation and style
        ("separation", pa.string()),
        ("melody", pa.binary()),  # PitchClasses
        ("continuation", pa.binary()),  # Samples
        ("style", pa.binary()),  # Samples
    ]
)


@dataclass(frozen=True, eq=False)
class PreparedClip:
    """A clip with what the model hears of its references.

    Attributes:
        n_frames: Length of the clip in frames of the codec.
        n_windows: Windows in which it is made.
        separation: What the melody was heard through; None without a melody or a separator.
        melody: The loudest pitch class of each chroma frame.
        continuation: The audio that the clip begins with.
        style: The audio whose style it takes on.
    """

    spec: ClipSpec
    n_frames: int
    n_windows: int = 1
    separation: str | None = None
    melody: PitchClasses | None = None
    continuation: Samples | None = None
    style: Samples | None = None

    @property
    def nbytes(self) -> int:
        """Memory of its references."""
        arrays = (self.melody, self.continuation, self.style)
        return sum(array.nbytes for array in arrays if array is not None)


Prepared = PreparedClip | DeadLetter


def extra_field(field: pa.Field) -> pa.Field:
    """An extra column on its way through the job."""
    return pa.field(f"{EXTRA}{field.name}", field.type)


def to_table(rows: Sequence[Prepared], extras: pa.Table) -> pa.Table:
    """Prepared rows as Ray carries them.

    Args:
        extras: The extra columns of the same rows, named by `extra_field`.
    """
    written, sources = list[dict[str, Any]](), list[int]()
    for number, row in enumerate(rows):
        n_empty = row.nbytes // ROW_BYTES if isinstance(row, PreparedClip) else 0
        written += [_written(row), *[{"kind": EMPTY}] * n_empty]
        sources += [number] * (1 + n_empty)
    table = pa.Table.from_pylist(written, schema=PREPARED_SCHEMA)
    if len(sources) > len(rows):
        extras = extras.take(pa.array(sources, pa.int64()))
    for field in extras.schema:
        table = table.append_column(field, extras[field.name])
    return table


def without_empty_rows(table: pa.Table) -> pa.Table:
    """The rows that are clips or dead letters."""
    is_row = pc.not_equal(table["kind"], EMPTY)
    return table if pc.all(is_row).as_py() else table.filter(is_row)


def from_table(table: pa.Table) -> Iterator[tuple[Prepared, pa.Table]]:
    """Each prepared row with its extra columns under their own names, a table of one row."""
    table = without_empty_rows(table)
    names = [name for name in table.column_names if name.startswith(EXTRA)]
    extras = table.select(names).rename_columns([name.removeprefix(EXTRA) for name in names])
    for number, row in enumerate(table.select(PREPARED_SCHEMA.names).to_pylist()):
        yield _read(row), extras.slice(number, 1)


def _written(row: Prepared) -> dict[str, Any]:
    if isinstance(row, DeadLetter):
        return {"kind": "dead_letter", "spec": row.to_json()}
    audio = row.continuation if row.continuation is not None else row.style
    return {
        "kind": "clip",
        "spec": row.spec.to_json(),
        "n_frames": row.n_frames,
        "n_windows": row.n_windows,
        "channels": None if audio is None else len(audio),
        "separation": row.separation,
        "melody": _bytes(row.melody),
        "continuation": _bytes(row.continuation),
        "style": _bytes(row.style),
    }


def _read(row: Mapping[str, Any]) -> Prepared:
    if row["kind"] == "dead_letter":
        return DeadLetter.from_json(row["spec"])
    melody = _array(row["melody"], np.uint8)
    if melody is not None and row["n_windows"] > 1:
        melody = melody.reshape(row["n_windows"], -1)  # [W, n]
    return PreparedClip(
        spec=ClipSpec.from_json(row["spec"]),
        n_frames=row["n_frames"],
        n_windows=row["n_windows"],
        separation=row["separation"],
        melody=melody,
        continuation=_array(row["continuation"], np.float32, row["channels"]),
        style=_array(row["style"], np.float32, row["channels"]),
    )


def _bytes(array: NDArray[Any] | None) -> bytes | None:
    return None if array is None else np.ascontiguousarray(array).tobytes()


def _array(data: bytes | None, dtype: Any, channels: int | None = None) -> NDArray[Any] | None:
    if data is None:
        return None
    array = np.frombuffer(data, dtype).copy()  # writable, as torch wants it
    return array if channels is None else array.reshape(channels, -1)  # [C, N]
