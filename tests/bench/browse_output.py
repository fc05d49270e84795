"""An output of many clips for the page that browses it: parts as a replica writes them, with
prompts, measures and an extra column that vary. Only the newest clips have their audio."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.audio.encode import Coding, encode
from pipeline.ledger.schema import clip_schema, encode_part

CLIPS_PER_PART = 256
RUN_ID = "20260101T000000-abcdef"
START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
EXTRAS = pa.schema([("mood", pa.string())])
RATE_HZ = 16_000
KEYS = ("C major", "A minor", "G major", "F major", "D minor", "Bb major", "E minor", "Ab major")
SPEEDS = ("slow", "calm", "lively", "fast")
VOICES = ("flute", "organ", "bell", "pluck")
KINDS = ("melody", "tune with bass", "melody with chords", "tune with bass and drums", "solo")
MOODS = ("calm", "bright", "dark", "solemn")
TAKES = 2
PROVENANCE: dict[str, Any] = {
              "model": "tiny", "weights_hash": "0123456789abcdef" * 2, "dtype": "bf16",
              "weights_licence": "Apache-2.0", "device": "cpu", "audio_format": "flac",
              "normalize_applied": "none", "bits_depend_on": "slots", "replica": "a1b2c3",
              "run_id": RUN_ID, "references": {}, "ai_generated": True,
              "use_sampling": True, "true_peak_limited": False,
              "versions": {"musicgen_batch": "0.1.0", "torch": "2.14.1"}}  # fmt: skip


def write_output(folder: Path, n_clips: int, *, n_heard: int = 0, workers: int = 1) -> int:
    """Writes the parts of `n_clips` clips; returns how many parts there are.

    Args:
        folder: Root of the new output.
        n_clips: Rows of `clips/`.
        n_heard: The newest so many clips get their audio.
        workers: Processes that write.
    """
    (folder / "clips").mkdir(parents=True)
    (folder / "runs").mkdir()
    wav = _tune()
    audio = encode(wav, RATE_HZ, Coding())
    starts = range(0, n_clips, CLIPS_PER_PART)
    write = partial(_write_part, folder, n_clips, hashlib.sha256(audio).hexdigest(), len(audio))
    if workers == 1:
        for start in starts:
            write(start)
    else:
        with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
            list(pool.map(write, starts, chunksize=64))
    for number in range(max(0, n_clips - n_heard), n_clips):
        path = folder / audio_path(clip_id(number), hashlib.sha256(audio).hexdigest())
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(audio)
    return len(starts)


def clip_id(number: int) -> str:
    """The id of a clip."""
    return hashlib.blake2b(str(number).encode(), digest_size=16).hexdigest()


def audio_path(clip: str, sha256: str) -> str:
    """Where the audio of a clip lies."""
    return f"audio/{clip[:2]}/{clip}-{sha256[:8]}.flac"


def _tune() -> np.ndarray:
    t = np.arange(RATE_HZ * 4) / RATE_HZ
    notes = 220 * 2 ** (np.array([0, 4, 7, 12, 7, 4, 0, 7])[(t * 2).astype(int)] / 12)
    phase = 2 * np.pi * np.cumsum(notes) / RATE_HZ
    wav = 0.2 * (np.sin(phase) + np.sin(2 * phase) / 3) * np.exp(-4 * (t * 2 % 1))
    return wav.astype(np.float32)[None]


def _prompts(numbers: np.ndarray) -> Iterator[str]:
    for n in (numbers // TAKES).tolist():
        yield (
            f"{KEYS[n % 8]}, {SPEEDS[n // 8 % 4]} {VOICES[n // 32 % 4]} {KINDS[n // 128 % 5]}, "
            f"piece {n}"
        )


def _write_part(folder: Path, n_clips: int, sha256: str, n_bytes: int, start: int) -> None:
    numbers = np.arange(start, min(start + CLIPS_PER_PART, n_clips))
    rng = np.random.default_rng(start)
    n = len(numbers)
    ids = [clip_id(number) for number in numbers.tolist()]
    rows = (numbers // TAKES).tolist()
    loud = rng.normal(-15, 3, n)
    varying = {
        "clip_id": ids,
        "row_key": [name[::-1] for name in ids],
        "id": [f"piece-{row:07d}" for row in rows],
        "take": numbers % TAKES,
        "prompt": list(_prompts(numbers)),
        "duration_s": np.full(n, 4.0),
        "n_frames": np.full(n, 200),
        "n_samples": np.full(n, 4 * RATE_HZ),
        "sample_rate_hz": np.full(n, RATE_HZ),
        "channels": np.full(n, 1),
        "seed_used": rng.integers(0, 2**62, n),
        "cfg_coef": rng.choice([1.0, 2.5, 3.0], n),
        "temperature": rng.choice([0.6, 0.8, 1.0], n),
        "audio_path": [audio_path(name, sha256) for name in ids],
        "audio_bytes": np.full(n, n_bytes),
        "audio_sha256": [sha256] * n,
        "loudness_lufs": loud,
        "rms_dbfs": loud - 2,
        "peak_dbfs": np.minimum(loud + 12, 0),
        "true_peak_dbtp": np.minimum(loud + 12.5, 1.0),
        "silence_ratio": rng.beta(1, 30, n),
        "spectral_flatness": rng.beta(2, 60, n),
        "created_at": [START + dt.timedelta(seconds=number / 4) for number in numbers.tolist()],
        "mood": [MOODS[row % 4] for row in rows],
    }
    schema = clip_schema(EXTRAS, "files")
    columns = [_column(field, varying, n) for field in schema]
    name = f"part-{RUN_ID}-a1b2c3-{start // CLIPS_PER_PART:06d}.parquet"
    data = encode_part(pa.table(columns, schema=schema), schema, name)
    (folder / "clips" / name).write_bytes(data)


def _column(field: pa.Field, varying: dict[str, object], n: int) -> pa.Array:
    if field.name in varying:
        return pa.array(varying[field.name], field.type)
    if field.name in PROVENANCE:
        return pa.array([PROVENANCE[field.name]] * n, field.type)
    if field.nullable:
        return pa.nulls(n, field.type)
    return pa.array([0 if field.type != pa.string() else "x"] * n, field.type)
