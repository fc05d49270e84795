"""The threads of a replica, without Ray."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from manifests.reader import Manifest
from pipeline import ledger
from pipeline.checkpoint import inspect_model, limits_of
from pipeline.config import load_config
from pipeline.expand import Clip, Expander, PlanSpec, Selection
from pipeline.ledger.done_set import NO_IDS, DoneSet
from pipeline.ledger.lease import Lease
from pipeline.prepare import PREPARED_SCHEMA, ReferenceReader
from pipeline.settings import ReplicaSettings
from pipeline.stations import Stations
from pipeline.storage import open_storage
from tests.integration.jobs import write_manifest


@pytest.fixture
def replica(tmp_path: Path) -> Any:
    """Stations on the bundled model, and the prepared rows of six clips."""
    rows = [{"id": f"r{i}", "prompt": f"song {i}", "duration_s": 0.2} for i in range(6)]
    flags = {
        "manifest": str(write_manifest(tmp_path / "m.parquet", rows)),
        "output": str(tmp_path / "out"),
        "model": "tiny",
        "slots": 2,
        "part_clips": 3,
    }
    config = load_config(None, flags)
    info = inspect_model(config)
    spec = PlanSpec(Manifest.open(config.manifest), config.generation, limits_of(info))
    lease = Lease.acquire(open_storage(config.output))
    schema = ledger.clip_schema(pa.schema([]), "files")
    settings = ReplicaSettings(config, info, "20260101T000000-abcdef", 1, lease.token, schema)
    stations = Stations(settings)
    yield stations, prepared_rows(spec, info), open_storage(config.output), lease
    stations.close()


def prepared_rows(spec: PlanSpec, info: Any) -> list[dict[str, Any]]:
    expander, nothing = Expander(spec), Selection(DoneSet(NO_IDS, NO_IDS))
    reader = ReferenceReader(expander, info)
    empty = dict.fromkeys(PREPARED_SCHEMA.names)
    return [
        empty | reader.prepared(item)
        for unit in spec.manifest.units
        for first_row, batch in spec.manifest.read_unit(unit)
        for number, raw in enumerate(spec.manifest.raw_rows(batch), start=first_row)
        for _, item in expander.expand(raw, number, 0, nothing)
        if isinstance(item, Clip)
    ]


def test_the_same_task_twice_at_once_makes_each_clip_once(replica: Any) -> None:
    """Ray may send a task again while its first attempt is still at work."""
    stations, rows, storage, _ = replica

    first, second = stations.accept(rows), stations.accept(rows)
    for call in (first, second):
        call.done.result(timeout=60)

    assert sorted(ledger.read_clips(storage)["id"].to_pylist()) == [f"r{i}" for i in range(6)]
    assert [len(call.statuses) for call in (first, second)] == [6, 6]
    third = stations.accept(rows)
    third.done.result(timeout=60)
    assert {status["status"] for status in third.statuses} == {"known"}


def test_a_clip_whose_codec_fails_is_a_dead_letter(
    replica: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    stations, rows, storage, _ = replica
    decode, broken = stations.model.decode, iter([True])

    def fail_once(codes: Any) -> Any:
        if next(broken, False):
            raise RuntimeError("out of memory")
        return decode(codes)

    monkeypatch.setattr(stations.model, "decode", fail_once)
    stations.accept(rows).done.result(timeout=60)

    (letter,) = ledger.read_failed(storage).to_pylist()
    assert (letter["stage"], letter["error_class"]) == ("encode", "RuntimeError")
    assert json.loads(letter["row_json"])["id"] == letter["id"]
    assert len(ledger.read_clips(storage)) == 5


def test_after_the_lease_is_gone_nothing_is_committed(replica: Any) -> None:
    stations, rows, storage, lease = replica
    lease.release()

    with pytest.raises(RuntimeError, match="was taken over by another run"):
        stations.accept(rows).done.result(timeout=60)

    assert ledger.list_parts(storage) == []
