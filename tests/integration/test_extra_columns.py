"""The manifest's extra columns come out as they went in, whatever Arrow type they have."""

import json
import tarfile
import uuid
from datetime import time, timedelta
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.ledger import read_clips
from pipeline.storage import open_storage
from tests.integration.jobs import problems, run_here, run_in_process

N_ROWS = 12
LAST_US = 253_402_300_799_000_000  # 9999-12-31T23:59:59Z: in a zone east of UTC it is past Python
TENSOR = pa.fixed_shape_tensor(pa.float32(), [2, 2])


def _repeated(values: list[object], kind: pa.DataType) -> pa.Array:
    return pa.array([values[i % len(values)] for i in range(N_ROWS)], kind)


def extra_columns() -> dict[str, pa.Array]:
    """A column of each kind that Parquet can hold, with the values that Python can't."""
    late = pa.array([LAST_US, None, 0] * (N_ROWS // 3), pa.int64())
    ns = pa.array([1, 1_700_000_000_000_000_001, None] * (N_ROWS // 3), pa.int64())
    number = pa.array(np.arange(N_ROWS))
    pairs: list[object] = [[("a", 1), ("b", None)], None, []]
    return {
        "until": late.view(pa.timestamp("us", "+14:00")),
        "far": pa.array([2**62, -(2**62), None] * 4).view(pa.timestamp("us")),
        "nanoseconds": ns.view(pa.timestamp("ns", "UTC")),
        "seconds": _repeated([0, 2**40], pa.timestamp("s")),
        "day": pa.array([2**31 - 1, 0, None] * 4, pa.int32()).view(pa.date32()),
        "clock": _repeated([time(1, 2, 3, 4), None], pa.time64("us")),
        "clock_ns": pa.array([86_399_999_999_999] * N_ROWS).view(pa.time64("ns")),
        "lasted": _repeated([timedelta(days=1), None], pa.duration("us")),
        "lasted_ns": pa.array([2**62 + 1] * N_ROWS).view(pa.duration("ns")),
        "price": _repeated([Decimal("1.50"), None], pa.decimal128(38, 2)),
        "large_price": _repeated([Decimal("9" * 60), None], pa.decimal256(76, 5)),
        "half": pa.array(np.linspace(0, 1, N_ROWS).astype(np.float16)),
        "nan": _repeated([float("nan"), float("inf"), None], pa.float64()),
        "small": _repeated([-128, 127, None], pa.int8()),
        "unsigned": _repeated([2**64 - 1, 0, None], pa.uint64()),
        "flag": _repeated([True, None], pa.bool_()),
        "bytes": _repeated([b"\x00\xff", None], pa.binary()),
        "fixed": _repeated([b"abcd", None], pa.binary(4)),
        "large_text": _repeated(["long", None, ""], pa.large_string()),
        "text_view": _repeated(["a view of more than twelve bytes", None], pa.string_view()),
        "genre": _repeated(["jazz", "techno", None], pa.string()).dictionary_encode(),
        "labels": _repeated([["a", None], [], None], pa.list_(pa.string())),
        "large_labels": _repeated([[1], None], pa.large_list(pa.int64())),
        "pair": _repeated([[1.0, 2.0], None], pa.list_(pa.float32(), 2)),
        "facts": _repeated(
            [{"bpm": 90, "when": {"d": 1}}, None, {"bpm": None, "when": None}],
            pa.struct([("bpm", pa.int16()), ("when", pa.struct([("d", pa.int64())]))]),
        ),
        "counts": _repeated(pairs, pa.map_(pa.string(), pa.int64())),
        "key": pa.ExtensionArray.from_storage(
            pa.uuid(), _repeated([uuid.UUID(int=i).bytes for i in range(5)], pa.binary(16))
        ),
        "embedding": pa.ExtensionArray.from_storage(
            TENSOR, _repeated([[1.0, 2.0, 3.0, 4.0]], TENSOR.storage_type)
        ),
        "nothing": pa.nulls(N_ROWS),
        "position": number,
    }


def write(path: Path) -> pa.Table:
    ids = [f"r{i:02d}" for i in range(N_ROWS)]
    known = {
        "id": pa.array(ids),
        "prompt": pa.array(["a song"] * N_ROWS),
        "duration_s": pa.array([0.1] * (N_ROWS - 1) + [-1.0]),  # the last is a dead letter
        "takes": pa.array([2] + [1] * (N_ROWS - 1)),
    }
    table = pa.table(known | extra_columns())
    pq.write_table(table, path, row_group_size=5)
    return pq.read_table(path)  # Parquet has no timestamps in seconds


def stored(array: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column as the docs say that it is kept: without dictionaries, views and large offsets."""
    kind = array.type
    if isinstance(kind, pa.DictionaryType):
        return array.cast(kind.value_type)
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind) or pa.types.is_null(kind):
        return array.cast(pa.string())
    return array


@pytest.mark.long
@pytest.mark.usefixtures("ray_cluster")
def test_every_arrow_type_passes_untouched_on_ray(tmp_path: Path) -> None:
    given, output = write(tmp_path / "m.parquet"), f"file://{tmp_path}/out"

    summary = run_in_process(tmp_path / "m.parquet", output)

    assert (summary.tally.clips, len(summary.plan.letters)) == (N_ROWS, 1)
    check(given, output)


@pytest.mark.parametrize("audio", ["webdataset", "parquet"])
def test_every_arrow_type_passes_untouched_without_ray(tmp_path: Path, audio: str) -> None:
    given, output = write(tmp_path / "m.parquet"), f"file://{tmp_path}/out"

    run_here(tmp_path / "m.parquet", output, audio=audio)

    check(given, output)
    for shard in (tmp_path / "out" / "audio").glob("*.tar"):
        with tarfile.open(shard) as tar:
            for name in tar.getnames():
                if name.endswith(".json"):
                    told = json.load(tar.extractfile(name) or pytest.fail(name))
                    assert set(extra_columns()) <= set(told)
                    if told["id"] == "r00":
                        assert told["until"].startswith("10000-01-01 13:59:59")


def check(given: pa.Table, output: str) -> None:
    """Every good row is there once per take, with exactly its extra columns."""
    made = read_clips(open_storage(output)).sort_by([("id", "ascending"), ("take", "ascending")])
    assert made["id"].to_pylist() == ["r00", *(f"r{i:02d}" for i in range(N_ROWS - 1))]
    rows = pa.array([0, *range(N_ROWS - 1)])
    for name in extra_columns():
        wanted = stored(given[name]).take(rows)
        assert made[name].type == wanted.type, name
        assert made[name].to_string() == wanted.to_string(), name
        assert made[name].combine_chunks().equals(wanted.combine_chunks()) or name == "nan", name
    assert problems(output) == []
