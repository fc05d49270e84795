"""`verify --repair`: what is damaged becomes what is still to make, so that the next run makes it.

Each part that names damaged or missing audio is replaced by one without those rows, in the manner
of compaction, so it may be killed at any moment. A part that can't be read is moved to `damaged/`.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.ledger.lease import Lease
from pipeline.ledger.merge import KeptPart, finish_compaction, merge
from pipeline.ledger.names import MERGED, Kind, part_name, part_path
from pipeline.ledger.parts import (
    UnreadablePartError,
    list_parts,
    new_replica_id,
    new_run_id,
    read_part,
)
from pipeline.ledger.reader import (
    SETTLED,
    read_letters,
    standing_dead_letters,
    write_dead_letter_part,
)
from pipeline.ledger.schema import FAILED_SCHEMA
from pipeline.ledger.verify import VerifyReport, verify
from pipeline.storage import Storage

DAMAGED = "damaged"


@dataclass(frozen=True)
class RepairReport:
    """What `repair` found and did."""

    found: VerifyReport
    n_clips: int
    """clips that are to be made again"""
    parts_moved: tuple[str, ...]
    """where parts that can't be read lie now"""
    left: int
    """problems that it can't mend"""


def repair(
    storage: Storage, lease: Lease, *, deep: bool = True, dry_run: bool = False
) -> RepairReport:
    """Verifies the output and takes back the clips whose audio is damaged or missing.

    Args:
        storage: root of the output.
        lease: of that output, held.
        deep: read all audio and compare its sha256; otherwise only that it exists with its size.
        dry_run: only find out what it would do.
    """
    torn = _unreadable_parts(storage)
    moved = tuple(f"{DAMAGED}/{path.rpartition('/')[2]}" for path in torn)
    if not dry_run:
        for path, place in zip(torn, moved, strict=True):
            lease.check()
            storage.put(place, storage.get(path))
            storage.delete([path])
        finish_compaction(storage, lease)
    found = verify(storage, deep=deep)
    damaged: dict[str, set[str]] = defaultdict(set)
    for problem in found.problems:
        for part, clip_id in problem.rows:
            damaged[part].add(clip_id)
    if not dry_run:
        _take_back(storage, lease, damaged)
    n_clips = len(set().union(*damaged.values()))
    left = [p for p in found.problems if not p.rows and p.kind != "unreadable part"]
    return RepairReport(found, n_clips, moved, len(left))


def _unreadable_parts(storage: Storage) -> list[str]:
    found = []
    kinds: tuple[Kind, ...] = ("clips", "failed", "scores")
    for kind in kinds:
        for info in storage.list(kind):
            if part_name(info.path) is None:
                continue
            try:
                read_part(storage, info, ["row_key", "created_at"])
            except UnreadablePartError:
                found.append(info.path)
    return found


def _take_back(storage: Storage, lease: Lease, damaged: dict[str, set[str]]) -> None:
    """Writes each part anew without its damaged rows, and takes back older dead letters of theirs:
    with the clip gone they would stand again, and the next run would skip the row."""
    run_id = new_run_id()
    parts = {info.path: info for info in list_parts(storage, "clips") if info.path in damaged}
    kept, rows = [], set[str]()
    for path, info in parts.items():
        table = read_part(storage, info, ["clip_id", "row_key"])
        gone = pc.is_in(table["clip_id"], pa.array(sorted(damaged[path]), pa.string()))
        rows.update(table.filter(gone)["row_key"].to_pylist())
        kept.append(KeptPart(info, ~np.asarray(gone, bool)))
    _settle(storage, lease, run_id, rows)
    for seq, part in enumerate(kept):
        merge(storage, lease, part_path("clips", run_id, MERGED, seq), [part])


def _settle(storage: Storage, lease: Lease, run_id: str, rows: set[str]) -> None:
    letters, order = read_letters(storage)
    stands = standing_dead_letters(storage, letters, order)  # those stay: the row failed since
    keys = letters["row_key"].to_pylist()
    known = {key: at for at, key in enumerate(keys) if key in rows}
    standing = {keys[n] for n in np.flatnonzero(stands)}
    at = sorted(at for key, at in known.items() if key not in standing)
    if not at:
        return
    told = {
        "stage": SETTLED,
        "error_class": "RowError",
        "message": "the audio of the clip is damaged or missing; it is to be made again",
        "run_id": run_id,
        "created_at": datetime.now(UTC),
    }
    settled = [row | told for row in letters.take(pa.array(at)).to_pylist()]
    table = pa.Table.from_pylist(settled, schema=FAILED_SCHEMA)
    lease.check()
    name = (run_id, new_replica_id(), 0, lease.generation)
    write_dead_letter_part(storage, table, *name)
