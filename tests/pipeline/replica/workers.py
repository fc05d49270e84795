"""A replica's worker in the test's own process, and what it makes of rows."""

from pathlib import Path
from typing import Any

import pyarrow as pa

from manifests.reader import Manifest
from pipeline import ledger
from pipeline.config_file import load_config
from pipeline.ledger.extras import NO_EXTRAS
from pipeline.ledger.id_set import NO_IDS, DoneSet
from pipeline.ledger.lease import Lease
from pipeline.planning.clips import PlannedClip
from pipeline.planning.expand import Expander, PlanSpec, Selection
from pipeline.planning.model_limits import inspect_model, limits_of
from pipeline.prepare.actor import references_of
from pipeline.prepare.prepared import PreparedClip
from pipeline.prepare.references import ReferenceReader
from pipeline.replica.actor import begin_attempts
from pipeline.replica.messages import ReplicaSettings
from pipeline.replica.worker import ReplicaWorker
from pipeline.storage import open_storage
from tests.integration.jobs import write_manifest

ROWS = [{"id": f"r{i}", "prompt": f"song {i}", "duration_s": 0.2} for i in range(6)]
SEEDED = [{"id": f"r{i}", "prompt": f"song {i}", "duration_s": 0.2, "seed": i} for i in range(4)]


def start(folder: Path, rows: list[dict[str, Any]] | None = None, **flags: Any) -> Any:
    told, prepared, storage, lease = a_job(folder, rows or ROWS, **flags)
    return ReplicaWorker(told, begin_attempts(told, told.find_identity())), prepared, storage, lease


def a_job(folder: Path, rows: list[dict[str, Any]], **settings: Any) -> Any:
    """What a replica is told, its prepared rows, the output and its lease."""
    folder.mkdir(exist_ok=True)
    flags = {
        "manifest": str(write_manifest(folder / "m.parquet", rows)),
        "output": str(folder / "out"),
        "model": "tiny",
        "slots": 2,
        "part_clips": 3,
    }
    config = load_config(None, flags | settings)
    info = inspect_model(config)
    spec = PlanSpec(Manifest.open(config.run.manifest), config.generation, limits_of(info))
    lease = Lease.acquire(open_storage(config.run.output))
    schema = ledger.clip_schema(pa.schema([]), config.parts.audio)
    told = ReplicaSettings(config, info, "20260101T000000-abcdef", 1, lease.token, schema)
    return told, prepared_rows(spec, info), open_storage(config.run.output), lease


def make(folder: Path, rows: list[dict[str, Any]] | None = None, **settings: Any) -> Any:
    """What a replica makes of rows: its clips by id, its dead letters by id, and the storage."""
    worker, prepared, storage, _ = start(folder, rows, **settings)
    call = worker.accept(prepared)
    call.done.result(timeout=60)
    tasks = worker.tasks
    assert (tasks.n_waiting, tasks.n_uncommitted, tasks.n_in_hand, tasks.is_idle) == (0, 0, 0, True)
    assert len(call.statuses) == len(prepared)
    tables = (ledger.read_clips(storage), ledger.read_dead_letters(storage))
    clips, letters = ({row["id"]: row for row in table.to_pylist()} for table in tables)
    worker.close()
    return clips, letters, storage


def prepared_rows(spec: PlanSpec, info: Any) -> list[tuple[PreparedClip, pa.Table]]:
    expander, nothing = Expander(spec), Selection(DoneSet(NO_IDS, NO_IDS))
    reader = ReferenceReader(spec.access, info, spec.limits.separation)
    return [
        (PreparedClip(item.spec, **vars(reader.read(references_of(item)))), NO_EXTRAS)
        for row_group in spec.manifest.row_groups
        for first_row, batch in spec.manifest.read_row_group(row_group)
        for number, raw in enumerate(spec.manifest.raw_rows(batch), start=first_row)
        for _, item in expander.expand(raw, number, 0, nothing)
        if isinstance(item, PlannedClip)
    ]
