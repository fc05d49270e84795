"""The record that travels from the prepare pool to a replica, written and read here alone.

One row of the table is a clip with its references at hand, or a dead letter that a replica commits
in its place. The takes of a manifest row that are judged together are one row, so that they reach
the same replica; they share their references. The manifest's extra columns travel beside, under
names that none of ours can have.

Ray cuts blocks by rows. A clip with large references is therefore followed by empty rows, one per
`ROW_BYTES`, so that a block of n rows holds about n * ROW_BYTES at most, and one clip more.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.planning.clips import ClipSpec, DeadLetter, JudgedTake

Samples = NDArray[np.float32]  # [C, N] at the model's rate and channels
Tune = NDArray[np.int8]  # [n], see `musicgen.conditioning.tune`
PitchClasses = NDArray[np.uint8]  # [n], or [W, n] where the clip is made in W > 1 windows

EXTRA = "extra."
EMPTY = "empty"  # kind of a row that only takes room
ROW_BYTES = 8 * 2**20

PREPARED_SCHEMA = pa.schema(
    [
        ("kind", pa.string()),  # "clip", "dead_letter" or EMPTY
        # JSON of the ClipSpec or of the DeadLetter; null in an empty row. Where takes are judged
        # together, a JSON list with the JSON of the ClipSpec of each.
        ("spec", pa.string()),
        ("judged", pa.string()),  # then a JSON list with the JudgedTake of each
        ("n_frames", pa.int32()),
        ("n_windows", pa.int32()),
        ("channels", pa.int32()),  # of continuation and style
        ("separation", pa.string()),
        ("melody", pa.binary()),  # PitchClasses
        ("tune", pa.binary()),  # Tune
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
        tune: The melody as scorers hear it; None where none asks for it.
        judged: How it is judged with the other takes of its row; None: it is kept as it is.
    """

    spec: ClipSpec
    n_frames: int
    n_windows: int = 1
    separation: str | None = None
    melody: PitchClasses | None = None
    continuation: Samples | None = None
    style: Samples | None = None
    tune: Tune | None = None
    judged: JudgedTake | None = None

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
    for takes in judged_together(enumerate(rows)):
        number, row = takes[0]
        n_empty = row.nbytes // ROW_BYTES if isinstance(row, PreparedClip) else 0
        written += [_written([take for _, take in takes]), *[{"kind": EMPTY}] * n_empty]
        sources += [number] * (1 + n_empty)
    table = pa.Table.from_pylist(written, schema=PREPARED_SCHEMA)
    if sources != [*range(len(rows))]:
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
        for prepared in _read(row):
            yield prepared, extras.slice(number, 1)


def judged_together(rows: Iterable[tuple[int, Prepared]]) -> Iterator[list[tuple[int, Prepared]]]:
    """The rows in order, those together that are takes of one manifest row and judged together."""

    def group(numbered: tuple[int, Prepared]) -> tuple[int, int]:
        number, row = numbered
        is_judged = isinstance(row, PreparedClip) and row.judged is not None
        return (-1, row.spec.row) if is_judged else (number, 0)  # type: ignore[union-attr]

    for _, takes in groupby(rows, group):
        yield list(takes)


def _written(takes: Sequence[Prepared]) -> dict[str, Any]:
    row = takes[0]
    if isinstance(row, DeadLetter):
        return {"kind": "dead_letter", "spec": row.to_json()}
    audio = row.continuation if row.continuation is not None else row.style
    spec, judged = row.spec.to_json(), None
    if row.judged is not None:
        clips = [take for take in takes if isinstance(take, PreparedClip)]
        spec = json.dumps([clip.spec.to_json() for clip in clips])
        judged = json.dumps([vars(clip.judged) for clip in clips])
    return {
        "kind": "clip",
        "spec": spec,
        "judged": judged,
        "n_frames": row.n_frames,
        "n_windows": row.n_windows,
        "channels": None if audio is None else len(audio),
        "separation": row.separation,
        "melody": _bytes(row.melody),
        "tune": _bytes(row.tune),
        "continuation": _bytes(row.continuation),
        "style": _bytes(row.style),
    }


def _read(row: Mapping[str, Any]) -> Iterator[Prepared]:
    if row["kind"] == "dead_letter":
        yield DeadLetter.from_json(row["spec"])
        return
    melody = _array(row["melody"], np.uint8)
    if melody is not None and row["n_windows"] > 1:
        melody = melody.reshape(row["n_windows"], -1)  # [W, n]
    judged = json.loads(row["judged"]) if row["judged"] else None
    specs = json.loads(row["spec"]) if judged else [row["spec"]]
    clip = PreparedClip(
        spec=ClipSpec.from_json(specs[0]),
        n_frames=row["n_frames"],
        n_windows=row["n_windows"],
        separation=row["separation"],
        melody=melody,
        continuation=_array(row["continuation"], np.float32, row["channels"]),
        style=_array(row["style"], np.float32, row["channels"]),
        tune=_array(row["tune"], np.int8),
    )
    if judged is None:
        yield clip
        return
    for spec, own in zip(specs, judged, strict=True):
        yield replace(clip, spec=ClipSpec.from_json(spec), judged=JudgedTake(**own))


def _bytes(array: NDArray[Any] | None) -> bytes | None:
    return None if array is None else np.ascontiguousarray(array).tobytes()


def _array(data: bytes | None, dtype: Any, channels: int | None = None) -> NDArray[Any] | None:
    if data is None:
        return None
    array = np.frombuffer(data, dtype).copy()  # writable, as torch wants it
    return array if channels is None else array.reshape(channels, -1)  # [C, N]
