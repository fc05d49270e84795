"""Outputs of schema version 2, in which `references` and `versions` were JSON text."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.ledger import SchemaError, check_schema, list_parts, read_clips
from pipeline.ledger.lease import Lease
from pipeline.ledger.maintain import compact
from pipeline.ledger.migrate import version_of
from pipeline.ledger.parts import read_part, reading
from pipeline.ledger.repair import repair
from pipeline.ledger.schema import SCHEMA_VERSION, VERSION_KEY, encode_part
from pipeline.ledger.verify import verify
from pipeline.report import build_report
from pipeline.storage import Storage, open_storage
from tests.pipeline.outputs import as_version_2, clip, commit

LATER = "20260102T000000-abcdef"


@pytest.fixture
def local(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path / "out"))


def versions(storage: Storage) -> list[str]:
    found = []
    for info in list_parts(storage, "clips"):
        with reading(storage, info) as part:
            found.append(version_of(part.schema_arrow))
    return found


def two_parts(storage: Storage, mode: str = "files") -> None:
    more = {"audio": {"bytes": b"x", "path": "a.flac"}} if mode == "parquet" else {}
    for seq, name in enumerate("ab"):
        values = {"versions": {"musicgen_batch": "0.1.0", "torch": "2.14.1"}, "bpm": 90, **more}
        extras = pa.schema([("bpm", pa.int64())])
        rows = [clip(name, sample_rate_hz=16_000, **values)]
        commit(storage, rows, seq, extras=extras, mode=mode, generation=seq + 1)  # type: ignore[arg-type]


def test_a_run_refuses_it_and_names_the_command_that_migrates(local: Storage) -> None:
    two_parts(local)
    as_version_2(local)
    assert versions(local) == ["2", "2"]
    with pytest.raises(SchemaError, match=r"has schema version 2.*`musicgen-batch compact`.*stay"):
        check_schema(local, pa.schema([]), "files")


@pytest.mark.parametrize("mode", ["files", "parquet"])
def test_compact_gives_the_same_rows_in_this_version(local: Storage, mode: str) -> None:
    two_parts(local, mode)
    before = read_clips(local)
    as_version_2(local)
    assert read_clips(local).equals(before)  # readers turn the rows as they read them
    with Lease.acquire(local) as lease:
        compact(local, lease, target_rows=1)  # nothing is to be merged, and yet all is written anew
    assert versions(local) == [SCHEMA_VERSION, SCHEMA_VERSION]
    after = read_clips(local)
    assert after.equals(before)
    assert after["versions"].to_pylist()[0] == {
        "musicgen_batch": "0.1.0", "torch": "2.14.1", "torchaudio": None, "transformers": None,
    }  # fmt: skip
    check_schema(local, pa.schema([]), mode)  # type: ignore[arg-type]


def test_an_output_that_is_half_migrated_is_read_and_finished(local: Storage) -> None:
    two_parts(local)
    as_version_2(local)
    commit(local, [clip("c", bpm=1)], 0, run_id=LATER, extras=pa.schema([("bpm", pa.int64())]))
    assert sorted(versions(local)) == ["2", "2", SCHEMA_VERSION]
    assert verify(local).ok
    assert read_clips(local, ["id", "references"]).num_rows == 3
    assert "3 clips" in build_report(local, sample=0)
    with Lease.acquire(local) as lease:
        compact(local, lease)
    assert versions(local) == [SCHEMA_VERSION]
    assert verify(local).n_clips == 3


def test_repair_writes_its_parts_in_this_version(local: Storage, tmp_path: Path) -> None:
    commit(local, [clip("a"), clip("b")], 0)
    as_version_2(local)
    lost = clip("a")["audio_path"]
    (tmp_path / "out" / lost).unlink()
    with Lease.acquire(local) as lease:
        assert repair(local, lease).n_clips == 1
    assert versions(local) == [SCHEMA_VERSION]
    assert read_clips(local)["references"].to_pylist()[0]["melody"] == "blake2b:00"


def test_a_package_that_is_not_known_is_not_dropped_in_silence(local: Storage) -> None:
    commit(local, [clip("a")], 0)
    as_version_2(local)
    (info,) = list_parts(local, "clips")
    table = pq.read_table(pa.BufferReader(local.get(info.path)))
    at = table.column_names.index("versions")
    field = pa.field("versions", pa.string(), False)
    table = table.set_column(at, field, pa.array(['{"jax": "1"}']))
    assert table.schema.metadata[VERSION_KEY] == b"2"
    local.put(info.path, encode_part(table, table.schema, "token"))
    with pytest.raises(SchemaError, match=r"versions .* names \['jax'\]"):
        read_part(local, info)
