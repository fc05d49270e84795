"""Made-up outputs for the report, and a reader of its page."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline import ledger
from pipeline.audio.encode import Coding, encode
from pipeline.audio.measure import measure
from pipeline.ledger.schema import CLIP_FIELDS, FAILED_SCHEMA, clip_schema
from pipeline.storage import Storage, open_storage

RATE_HZ = 16_000
RUN = "20260102T030405-abc123"
START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
Row = dict[str, Any]


# --- made-up outputs ------------------------------------------------------------------------------


def tune(number: int, duration_s: float, channels: int = 1) -> NDArray[np.float32]:
    """A small melody with a decay on each note, another for each number."""
    rng = np.random.default_rng(number)
    t = np.arange(max(1, round(duration_s * RATE_HZ))) / RATE_HZ
    step = (t * 4).astype(int)
    notes = 110 * 2 ** (rng.choice([0, 3, 5, 7, 10, 12, 15, 19], step.max() + 1) / 12)
    phase = 2 * np.pi * np.cumsum(notes[step]) / RATE_HZ
    voice = sum(np.sin(k * phase) / k**1.4 for k in (1, 2, 3, 5))
    wav = 0.25 * voice * np.exp(-5 * (t * 4 % 1)) + rng.normal(0, 0.002, t.size)
    shifts = np.arange(channels) * 40
    return np.stack([np.roll(wav, s) for s in shifts]).astype(np.float32)  # [C, N]


def clip_row(number: int, wav: NDArray[np.float32], **changes: Any) -> tuple[Row, bytes]:
    """A row of clips/ and its audio bytes."""
    data = encode(wav, RATE_HZ, Coding(), comment=json.dumps({"number": number}))
    clip_id = hashlib.blake2b(str(number).encode(), digest_size=16).hexdigest()
    digest = hashlib.sha256(data).hexdigest()
    row: Row = dict.fromkeys(CLIP_FIELDS.names)
    row |= {
        "clip_id": clip_id, "row_key": clip_id, "id": f"row-{number:04d}", "take": 0, "retake": 0,
        "prompt": f"tune number {number}", "duration_s": wav.shape[1] / RATE_HZ,
        "n_frames": 1, "n_samples": wav.shape[1], "sample_rate_hz": RATE_HZ,
        "channels": wav.shape[0], "references": {}, "seed_used": number, "cfg_coef": 3.0,
        "temperature": 1.0, "top_k": 250, "top_p": 0.0, "use_sampling": True,
        "audio_path": f"audio/{clip_id[:2]}/{clip_id}-{digest[:8]}.flac", "audio_format": "flac",
        "audio_bytes": len(data), "audio_sha256": digest, "model": "tiny",
        "weights_hash": "0123456789abcdef" * 2, "weights_licence": "Apache-2.0", "dtype": "fp32",
        "device": "cpu", "threads": 1, "engine_rows": 8, "versions": {}, "ai_generated": True,
        "bits_depend_on": "slots",
        "normalize_applied": "none", "gain_db": 0.0, "true_peak_limited": False,
        "run_id": RUN, "replica": "a1b2c3", "attempts": 1,
        "created_at": START + timedelta(seconds=2 * number),
    }  # fmt: skip
    return row | vars(measure(wav, RATE_HZ)) | changes, data


def letter(number: int, **changes: Any) -> Row:
    return {
        "row_key": f"{number:032x}", "clip_id": None, "id": f"bad-{number}", "take": 0,
        "row": number, "source": "demo.parquet", "stage": "prepare",
        "error_class": "ReferenceNotFoundError",
        "message": f"melody_uri=melodies/{number}.flac does not exist; upload it or drop the row",
        "attempts": 1, "run_id": RUN, "created_at": START, "row_json": "{}",
    } | changes  # fmt: skip


def run_record(**changes: Any) -> Row:
    return {
        "run_id": RUN, "state": "done", "started_at": "2026-01-02T03:04:00Z", "done": 3,
        "failed": 0, "done_before": 0, "audio_seconds": 30.0, "wall_s": 12.0, "replicas": 1,
        "slots": 4,
    } | changes  # fmt: skip


def write_output(
    root: Path | str,
    clips: list[tuple[Row, bytes]],
    letters: list[Row] | None = None,
    runs: list[Row] | None = None,
    mode: Any = "files",
) -> Storage:
    """Publishes an output the way a replica does."""
    storage = open_storage(str(root))
    rows = [dict(row) for row, _ in clips]
    if mode == "webdataset" and clips:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for row, (_, data) in zip(rows, clips, strict=True):
                row |= {"audio_path": "audio/s.tar", "audio_member": f"{row['clip_id']}.flac"}
                entry = tarfile.TarInfo(row["audio_member"])
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
        storage.put("audio/s.tar", buffer.getvalue())
    elif mode == "parquet":
        for row, (_, data) in zip(rows, clips, strict=True):
            row |= {"audio_path": None, "audio": {"bytes": data, "path": "x.flac"}}
    else:
        storage.put_many({row["audio_path"]: data for row, data in clips if data})
    if rows:
        schema = clip_schema(pa.schema([("genre", pa.string())]), mode)
        table = pa.Table.from_pylist(rows, schema=schema)
        ledger.write_clip_part(storage, table, RUN, "a1b2c3", 0)
    if letters:
        table = pa.Table.from_pylist(letters, schema=FAILED_SCHEMA)
        ledger.write_dead_letter_part(storage, table, RUN, "a1b2c3", 0)
    for run in runs if runs is not None else [run_record()]:
        ledger.write_run(storage, run["run_id"], run)
    return storage


def some_clips(n: int, duration_s: float = 0.5, **changes: Any) -> list[tuple[Row, bytes]]:
    return [clip_row(i, tune(i, duration_s), **changes) for i in range(n)]


# --- reading the page -----------------------------------------------------------------------------

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Parses strictly enough to notice a tag that is not closed, and keeps every element."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"an attribute twice in <{tag}>"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] not in (["script"], ["style"]):
            self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.elements if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    @property
    def players(self) -> dict[str, bytes | str]:
        """What each player plays, by clip_id: embedded bytes or a link."""
        found: dict[str, bytes | str] = {}
        for attrs in self.all("audio"):
            name, source = str(attrs["id"]).removeprefix("audio-"), str(attrs["src"])
            assert name not in found
            head, _, body = source.partition(",")
            embedded = head == "data:audio/flac;base64"
            found[name] = base64.b64decode(body, validate=True) if embedded else source
        return found
