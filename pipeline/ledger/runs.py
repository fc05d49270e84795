"""The records of runs, `runs/<run_id>.json`."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from pipeline.ledger.names import run_of_record, run_path
from pipeline.storage import ObjectNotFoundError, Storage

log = logging.getLogger(__name__)


def write_run(storage: Storage, run_id: str, record: Mapping[str, Any]) -> None:
    """Publishes the record of a run, in the place of its earlier one."""
    data = json.dumps(record, indent=1, sort_keys=True, default=str)
    storage.put(run_path(run_id), data.encode())


def read_runs(storage: Storage) -> list[dict[str, Any]]:
    """The records of all runs in the order of their leases, those of earlier versions by name and
    first. What is no record of this program is left out, with a warning if it has the name of one.
    """
    found = []
    for info in storage.list("runs"):
        run_id = run_of_record(info.path)
        if run_id is None:
            continue
        record = _record(storage, info.path)
        if record is None or record.get("run_id") != run_id:
            log.warning("%s is not the record of a run and is left out", storage.uri(info.path))
        else:
            found.append(record)
    return sorted(found, key=lambda record: (generation_of_run(record), record["run_id"]))


def generation_of_run(record: Mapping[str, Any]) -> int:
    """The lease generation of a run; 0 where its record does not tell."""
    generation = record.get("generation")
    return generation if isinstance(generation, int) else 0


def _record(storage: Storage, path: str) -> dict[str, Any] | None:
    try:
        record = json.loads(storage.get(path))
    except (ValueError, ObjectNotFoundError):
        return None
    return record if isinstance(record, dict) else None
