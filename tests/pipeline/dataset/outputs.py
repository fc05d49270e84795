"""Outputs with real audio in the three layouts, made in milliseconds by the ledger's own writer."""

from __future__ import annotations

import hashlib
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline import ledger
from pipeline.audio.encode import Coding, encode
from pipeline.audio.measure import measure
from pipeline.dataset.keep import refresh
from pipeline.ledger.clip_row import ClipRow, ClipScores, DeadLetterRow, Provenance
from pipeline.ledger.id_set import NO_IDS, DoneSet
from pipeline.ledger.lease import Lease
from pipeline.ledger.settings import AudioMode
from pipeline.ledger.writer import PartLimits, PartOrigin, PartWriter
from pipeline.storage import Storage, open_storage
from tests.pipeline.report.outputs import RATE_HZ, tune

RUN = "20260101T000000-abcdef"
START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LAYOUTS: tuple[AudioMode, ...] = ("files", "parquet", "webdataset")
NOBODY = DoneSet(NO_IDS, NO_IDS)
MADE_WITH = Provenance(
    model="tiny",
    weights_hash="0123456789abcdef" * 2,
    weights_revision=None,
    weights_licence="Apache-2.0",
    dtype="fp32",
    device="cpu:x86_64",
    threads=1,
    engine_rows=4,
    bits_depend_on="slots",
    versions={"musicgen-batch": "0.1.0", "torch": "2.14.1"},
)


def some_clip(number: int, **changes: Any) -> tuple[ClipRow, bytes]:
    """A clip of 0.1 s and more, of which every third has a melody; and its audio file."""
    wav = tune(number, 0.1 + number / 100)
    names: dict[str, Any] = dict.fromkeys(field.name for field in fields(ClipRow))
    clip_id = hashlib.blake2b(str(number).encode(), digest_size=16).hexdigest()
    told = {
        **{"clip_id": clip_id, "row_key": clip_id, "id": f"row-{number:04d}", "take": 0},
        **{"prompt": f"tune number {number}, calm", "duration_s": wav.shape[1] / RATE_HZ},
        **{"n_frames": 5, "n_samples": wav.shape[1], "sample_rate_hz": RATE_HZ, "channels": 1},
        **{"references": {"melody": "blake2b:00"} if number % 3 == 0 else {}},
        **{"seed_used": number, "retake": 0, "cfg_coef": 3.0, "temperature": 1.0, "top_k": 250},
        **{"top_p": 0.0, "use_sampling": True, "normalize_applied": "none", "gain_db": 0.0},
        **{"true_peak_limited": False, "measures": measure(wav, RATE_HZ), "scores": ClipScores()},
        **{"provenance": MADE_WITH},
        **{"run_id": RUN, "replica": "aaaaaa", "attempts": 1},
        **{"created_at": START + timedelta(seconds=number)},
    }
    row = ClipRow(**(names | told | changes))
    return row, encode(wav, RATE_HZ, Coding(), comment="{}")


def some_letter(number: int) -> DeadLetterRow:
    return DeadLetterRow(
        row_key=f"{number:032x}", clip_id=None, id=f"bad-{number}", take=0, row=number,
        source="m.parquet", stage="prepare", error_class="ReferenceNotFoundError",
        message="melody_uri=a.flac does not exist", attempts=1, run_id=RUN, created_at=START,
        row_json="{}",
    )  # fmt: skip


def add_clips(
    storage: Storage,
    numbers: range,
    mode: AudioMode = "files",
    replica: str = "aaaaaa",
    extras: pa.Schema | None = None,
    sidecar: bytes | None = None,
    **changes: Any,
) -> None:
    """Commits clips in parts of four, as a replica does.

    Args:
        storage: root of the output.
        numbers: which of the made-up clips.
        mode: where their audio goes.
        replica: who commits them.
        extras: extra columns, in which each clip has its number.
        sidecar: what stands for the signed C2PA manifest of each.
        changes: of each row.
    """
    extras = pa.schema([("bpm", pa.int64())]) if extras is None else extras
    writer = PartWriter(
        storage,
        schema=ledger.clip_schema(extras, mode),
        origin=PartOrigin(RUN, replica, 1),
        audio=mode,
        audio_format="flac",
        limits=PartLimits(4, 1e9, 60.0),
        guard=lambda: None,
    )
    for number in numbers:
        row, audio = some_clip(number, **changes)
        own = {name: [number] for name in extras.names}
        writer.add_clip(row, audio, pa.table(own, schema=extras), sidecar)
        if len(writer) == 4:
            writer.commit(NOBODY)
    writer.commit(NOBODY)


def add_letter(storage: Storage, number: int = 0) -> None:
    table = pa.Table.from_pylist([some_letter(number).as_columns()], schema=ledger.FAILED_SCHEMA)
    ledger.write_dead_letter_part(storage, table, RUN, "bbbbbb", number)


def keep(storage: Storage, **settings: Any) -> tuple[list[str], list[str]]:
    """What `refresh` wrote, and what it said."""
    said: list[str] = []
    with Lease.acquire(storage) as lease:
        return refresh(lease, said.append, **settings), said


def make_output(
    root: Path | str, mode: AudioMode = "files", n: int = 10, replica: str = "aaaaaa"
) -> Storage:
    """An output with `n` clips, a dead letter, and what a run keeps current."""
    storage = open_storage(str(root))
    add_clips(storage, range(n), mode, replica)
    add_letter(storage)
    keep(storage)
    return storage
