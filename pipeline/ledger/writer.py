"""Cuts the clips of one replica into parts: audio objects first, then the Parquet part.

The part's single atomic publish is the commit (`ledger.write_clip_part`); audio that no part names
does not exist for readers. One writer belongs to one thread.
"""

import hashlib
import io
import json
import logging
import tarfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import compress
from typing import Any

import pyarrow as pa

from pipeline import ledger
from pipeline.audio.settings import AudioFormat
from pipeline.ledger.settings import AudioMode
from pipeline.storage import Storage
from pipeline.telemetry.logfmt import line
from pipeline.telemetry.metrics import Sample

log = logging.getLogger(__name__)


@dataclass
class _Pending:
    """What waits for the next commit."""

    clips: list[dict[str, Any]] = field(default_factory=list)
    audio: list[bytes] = field(default_factory=list)
    letters: list[dict[str, Any]] = field(default_factory=list)
    n_bytes: int = 0
    since: float | None = None

    def __len__(self) -> int:
        return len(self.clips) + len(self.letters)


@dataclass
class Committed:
    """What one writer has published so far; every number only grows."""

    parts: int = 0
    clips: int = 0
    audio_s: float = 0.0
    audio_bytes: int = 0
    failures: Counter[tuple[str, str]] = field(default_factory=Counter)  # by stage, error class

    def add(self, published: _Pending) -> None:
        """A part stands."""
        self.parts += 1
        self.clips += len(published.clips)
        self.audio_s += sum(row["n_samples"] / row["sample_rate_hz"] for row in published.clips)
        self.audio_bytes += sum(row["audio_bytes"] for row in published.clips)
        self.failures.update((row["stage"], row["error_class"]) for row in published.letters)

    def samples(self) -> list[Sample]:
        """For the metrics."""
        return [
            Sample("parts", self.parts),
            Sample("clips", self.clips),
            Sample("audio_seconds", self.audio_s),
            Sample("audio_bytes", self.audio_bytes),
            *(
                Sample("failures", count, (("stage", stage), ("error_class", error_class)))
                for (stage, error_class), count in list(self.failures.items())
            ),
        ]


class PartWriter:
    """Collects finished clips and dead letters, and publishes them as parts.

    Args:
        storage: Root of the output.
        schema: Arrow schema of `clips/` (`ledger.clip_schema`).
        run_id: Run that the parts belong to.
        replica: Name of this actor's incarnation; unique, so part names never collide.
        audio: Where audio bytes go.
        audio_format: File extension of the clips.
        max_clips, max_bytes, max_age_s: A part is due at the latest at one of these.
        guard: Called before each commit; raises where this run may no longer write.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        schema: pa.Schema,
        run_id: str,
        replica: str,
        audio: AudioMode,
        audio_format: AudioFormat,
        max_clips: int,
        max_bytes: float,
        max_age_s: float,
        guard: Callable[[], None],
    ) -> None:
        self._storage, self._schema, self._guard = storage, schema, guard
        self._run_id, self._replica = run_id, replica
        self._audio, self._format = audio, audio_format
        self._max_clips, self._max_bytes, self._max_age_s = max_clips, max_bytes, max_age_s
        self._pending = _Pending()
        self._seq = 0
        self.committed = Committed()

    def __len__(self) -> int:
        return len(self._pending)

    def add_clip(self, row: dict[str, Any], audio: bytes) -> None:
        """Adds a clip; `row` holds every column of `clips/` but the audio ones."""
        digest = hashlib.sha256(audio).hexdigest()
        row |= {"audio_format": self._format, "audio_bytes": len(audio), "audio_sha256": digest}
        self._pending.clips.append(row)
        self._pending.audio.append(audio)
        self._pending.n_bytes += len(audio)
        self._mark()
        audio_s = row["n_samples"] / row["sample_rate_hz"]
        log.info(line("finished", **self._named(row), audio_s=audio_s, bytes=len(audio)))

    def add_letter(self, letter: dict[str, Any]) -> None:
        """Adds a dead letter: a row of `failed/`."""
        self._pending.letters.append(letter)
        self._mark()
        said = {name: letter[name] for name in ("stage", "error_class", "message")}
        log.warning(line("failed", **self._named(letter), **said))

    def _named(self, row: dict[str, Any]) -> dict[str, Any]:
        ids = {name: row[name] for name in ("clip_id", "id", "take")}
        return {"run": self._run_id, "replica": self._replica, **ids}

    def _mark(self) -> None:
        if self._pending.since is None:
            self._pending.since = time.monotonic()

    def due_in_s(self) -> float | None:
        """Seconds until the part must be cut; None where nothing waits."""
        p = self._pending
        if p.since is None:
            return None
        if len(p) >= self._max_clips or p.n_bytes >= self._max_bytes:
            return 0.0
        return max(0.0, p.since + self._max_age_s - time.monotonic())

    def commit(self, done: ledger.DoneSet) -> None:
        """Publishes what waits, but for clips that somebody else has committed since (a replica
        that Ray took for dead may have).

        Raises:
            StorageError, LeaseLostError: Nothing is committed that readers could see half of, and
                whoever resumes makes the rows again.
        """
        p, self._pending = self._pending, _Pending()
        fresh = [not done.contains(row["clip_id"]) for row in p.clips]
        p.clips = list(compress(p.clips, fresh))
        p.audio = list(compress(p.audio, fresh))
        if not len(p):
            return
        started = time.monotonic()
        self._guard()
        if p.clips:
            self._write_audio(p)
            self._guard()
            table = pa.Table.from_pylist(p.clips, schema=self._schema)
            ledger.write_clip_part(self._storage, table, self._run_id, self._replica, self._seq)
        if p.letters:
            table = pa.Table.from_pylist(p.letters, schema=ledger.FAILED_SCHEMA)
            ledger.write_dead_letter_part(
                self._storage, table, self._run_id, self._replica, self._seq
            )
        self.committed.add(p)
        log.info(
            line(
                "committed",
                run=self._run_id,
                replica=self._replica,
                part=f"{self._run_id}-{self._replica}-{self._seq:06d}",
                clips=len(p.clips),
                failed=len(p.letters),
                bytes=p.n_bytes,
                seconds=time.monotonic() - started,
            )
        )
        self._seq += 1

    def _write_audio(self, p: _Pending) -> None:
        """Puts the audio where the mode wants it and fills the audio columns of the rows."""
        names = [f"{row['clip_id']}-{row['audio_sha256'][:8]}.{self._format}" for row in p.clips]
        if self._audio == "files":
            paths = [f"audio/{name[:2]}/{name}" for name in names]
            self._storage.put_many(dict(zip(paths, p.audio, strict=True)))
            for row, path in zip(p.clips, paths, strict=True):
                row |= {"audio_path": path, "audio_member": None}
        elif self._audio == "webdataset":
            tar_path = f"audio/shard-{self._run_id}-{self._replica}-{self._seq:06d}.tar"
            self._storage.put(tar_path, self._tar(names, p))
            for row, name in zip(p.clips, names, strict=True):
                row |= {"audio_path": tar_path, "audio_member": name}
        else:
            for row, name, data in zip(p.clips, names, p.audio, strict=True):
                row |= {"audio_path": None, "audio_member": None}
                row["audio"] = {"bytes": data, "path": name}

    def _tar(self, names: list[str], p: _Pending) -> bytes:
        """A WebDataset shard: `<key>.<format>` and `<key>.json` per clip."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for name, row, data in zip(names, p.clips, p.audio, strict=True):
                meta = json.dumps(row, default=str, sort_keys=True, ensure_ascii=False).encode()
                key = name.rsplit(".", 1)[0]
                for member, content in ((name, data), (f"{key}.json", meta)):
                    entry = tarfile.TarInfo(member)
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))
        return buffer.getvalue()
