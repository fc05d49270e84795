"""A manifest of many rows and the output of a run that has made most of them, written as the job
writes them but without audio: what planning reads."""

import datetime as dt
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from manifests.build import ROWS_PER_GROUP
from manifests.reader import Manifest
from manifests.schema import GenerationDefaults
from pipeline.ledger.id_set import NO_IDS, DoneSet, Ids
from pipeline.ledger.schema import clip_schema, encode_part
from pipeline.planning.expand import ModelLimits, PlanSpec, Selection
from pipeline.planning.judge import Judge, Slice

CLIPS_PER_PART = 256
MISSING_EVERY = 1000  # 99.9 % are done; the others lie scattered over all row groups
LIMITS = ModelLimits("bench", "f" * 32, frozenset({"melody", "continuation"}))
EXTRAS = pa.schema([("genre", pa.string())])
RUN_ID = "20260101T000000-abcdef"
REST = "ffffff"  # the replica that makes what was left


def spec_of(manifest: Path) -> PlanSpec:
    """The plan of the benchmark's manifest."""
    return PlanSpec(Manifest.open(str(manifest)), GenerationDefaults(), LIMITS)


def write_manifest(path: Path, n_rows: int) -> None:
    """Rows with an id, a prompt, one of a few lengths, and an extra column."""
    schema = pa.schema(
        [("id", pa.string()), ("prompt", pa.string()), ("duration_s", pa.float64()), *EXTRAS]
    )
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for start in range(0, n_rows, ROWS_PER_GROUP):
            writer.write_table(_rows(start, min(start + ROWS_PER_GROUP, n_rows), schema))


def write_parts(output: Path, manifest: Path, workers: int) -> int:
    """The parts of a run that has made 99.9 % of the manifest; returns how many there are."""
    (output / "clips").mkdir(parents=True)
    n_groups = len(spec_of(manifest).manifest.row_groups)
    tasks = [range(at, min(at + 26, n_groups)) for at in range(0, n_groups, 26)]  # 1,016 parts
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        return sum(pool.map(partial(_write_some_parts, output, manifest), tasks))


def remove_rest(output: Path) -> None:
    """Takes away what `write_rest` has written."""
    for path in (output / "clips").glob(f"part-{RUN_ID}-{REST}-*"):
        path.unlink()


def write_rest(output: Path, manifest: Path) -> None:
    """The parts of a run that makes what the first has left."""
    spec = spec_of(manifest)
    groups = range(len(spec.manifest.row_groups))
    ids = np.concatenate([*_ids_of(spec, groups, are_missing=True)])
    _write(output, REST, ids)


def _write_some_parts(output: Path, manifest: Path, groups: range) -> int:
    ids = np.concatenate([*_ids_of(spec_of(manifest), groups, are_missing=False)])
    return _write(output, f"{groups.start:06x}", ids)


def _write(output: Path, replica: str, ids: Ids) -> int:
    """Parts with these clips; returns how many."""
    schema = clip_schema(EXTRAS, "files")
    starts = range(0, len(ids), CLIPS_PER_PART)
    for start in starts:
        name = f"part-{RUN_ID}-{replica}-{start // CLIPS_PER_PART:06d}.parquet"
        some = ids[start : start + CLIPS_PER_PART]
        (output / "clips" / name).write_bytes(encode_part(_clips(some, schema), schema, name))
    return len(starts)


def _ids_of(spec: PlanSpec, groups: range, *, are_missing: bool) -> Iterator[Ids]:
    judge = Judge(spec, Selection(DoneSet(NO_IDS, NO_IDS)))
    for index in groups:
        row_group = spec.manifest.row_groups[index]
        ids = judge.judge(Slice(index, 0, row_group.n_rows), {}).clips
        rows = np.arange(row_group.first_row, row_group.first_row + row_group.n_rows)
        yield ids[(rows % MISSING_EVERY == 0) == are_missing]


def _clips(ids: Ids, schema: pa.Schema) -> pa.Table:
    """Rows of `clips/` that hold what their types allow in most columns."""
    names = [id.ljust(16, b"\0").hex() for id in ids.tolist()]
    own: dict[str, Any] = {
        "clip_id": names,
        "row_key": [name[::-1] for name in names],
        "id": [f"r-{name[:9]}" for name in names],
        "audio_path": [f"audio/{name[:2]}/{name}-01234567.flac" for name in names],
        "audio_sha256": [name + name for name in names],
    }
    constant = _constant_columns(schema, len(ids))
    columns = [
        pa.array(own[field.name], field.type) if field.name in own else constant[field.name]
        for field in schema
    ]
    return pa.table(columns, schema=schema)


@lru_cache(2)
def _constant_columns(schema: pa.Schema, n: int) -> dict[str, pa.Array]:
    """What the other columns hold in each part of so many clips."""
    return {field.name: _column(field, n) for field in schema}


def _column(field: pa.Field, n: int) -> pa.Array:
    return pa.nulls(n, field.type) if field.nullable else pa.array([_value(field)] * n, field.type)


def _value(field: pa.Field) -> Any:
    kind = field.type
    if field.nullable:
        return None
    if pa.types.is_struct(kind):
        return {inner.name: _value(inner) for inner in kind}
    if pa.types.is_timestamp(kind):
        return dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    if pa.types.is_boolean(kind):
        return True
    return "x" if kind == pa.string() else 1


def _rows(start: int, stop: int, schema: pa.Schema) -> pa.Table:
    genres = ("jazz", "techno", "ambient", "folk", "funk")
    return pa.table(
        {
            "id": [f"track-{row:09d}" for row in range(start, stop)],
            "prompt": [
                f"a {genres[row % 5]} track at {60 + row % 120} bpm, take care of number {row}"
                for row in range(start, stop)
            ],
            "duration_s": [(10.0, 30.0, 8.0)[row % 3] for row in range(start, stop)],
            "genre": [genres[row % 5] for row in range(start, stop)],
        },
        schema,
    )
