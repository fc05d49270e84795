"""Collects the clips of one replica and publishes them as parts: first audio, then a Parquet file.

Publishing that file is the commit (`ledger.write_clip_part`): it is atomic, and readers find audio
only through it. One writer belongs to one thread.
"""

import hashlib
import io
import json
import logging
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline import ledger
from pipeline.audio.settings import AudioFormat
from pipeline.ledger.clip_row import ClipRow, DeadLetterRow, ScoreRow
from pipeline.ledger.extras import NO_EXTRAS, append_extras, as_python
from pipeline.ledger.names import sidecar_of
from pipeline.ledger.schema import RESERVED_COLUMNS
from pipeline.ledger.scores import write_score_part
from pipeline.ledger.settings import AudioMode
from pipeline.storage import Storage
from pipeline.telemetry.logfmt import line
from pipeline.telemetry.metrics import Sample, failure_samples

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PartLimits:
    """When a part is published at the latest: at one of these."""

    max_clips: int
    max_bytes: float
    max_age_s: float


@dataclass(frozen=True)
class _PendingClip:
    """A clip with its audio file, which have still to be committed."""

    row: ClipRow
    extras: pa.Table
    audio: bytes
    sidecar: bytes | None

    @property
    def name(self) -> str:
        """Of its objects, without an ending. It tells two signings of one clip apart: what a
        replica that was given up still writes never replaces what is committed."""
        content = hashlib.sha256(self.audio)
        content.update(self.sidecar or b"")
        return f"{self.row.clip_id}-{content.hexdigest()[:8]}"

    def columns(self, audio_format: AudioFormat) -> dict[str, Any]:
        """Our columns of `clips/` but those that say where the audio lies."""
        file = {
            "audio_format": audio_format,
            "audio_bytes": len(self.audio),
            "audio_sha256": hashlib.sha256(self.audio).hexdigest(),
            "c2pa_sidecar_sha256": self.sidecar and hashlib.sha256(self.sidecar).hexdigest(),
            "c2pa_sidecar": None,
        }
        return self.row.as_columns() | file


@dataclass
class _Pending:
    """What waits for the next commit."""

    clips: list[_PendingClip] = field(default_factory=list)
    dead_letters: list[DeadLetterRow] = field(default_factory=list)
    scores: list[ScoreRow] = field(default_factory=list)
    n_set_aside: int = 0  # takes
    n_bytes: int = 0
    since: float | None = None  # when the first of them was added, monotonic seconds

    def __len__(self) -> int:
        return len(self.clips) + len(self.dead_letters) + self.n_set_aside


@dataclass
class Committed:
    """What one writer has published so far; every number only grows."""

    parts: int = 0
    clips: int = 0
    audio_s: float = 0.0
    audio_bytes: int = 0
    failures: Counter[tuple[str, str]] = field(default_factory=Counter)  # by stage, error class

    def add(self, published: _Pending) -> None:
        """Counts what a part has just published."""
        self.parts += 1
        self.clips += len(published.clips)
        self.audio_s += sum(clip.row.audio_s for clip in published.clips)
        self.audio_bytes += sum(len(clip.audio) for clip in published.clips)
        self.failures.update((row.stage, row.error_class) for row in published.dead_letters)

    def samples(self) -> list[Sample]:
        """These numbers as samples for the metrics."""
        return [
            Sample("parts", self.parts),
            Sample("clips", self.clips),
            Sample("audio_seconds", self.audio_s),
            Sample("audio_bytes", self.audio_bytes),
            *failure_samples(self.failures),
        ]


@dataclass(frozen=True)
class PartOrigin:
    """Who writes parts.

    Attributes:
        run_id: The run.
        replica: Its process; unique, so that names of parts never collide.
        generation: Of the lease that the run holds.
    """

    run_id: str
    replica: str
    generation: int


class KnownIds(Protocol):
    """Tells which clips are committed."""

    def contains_many(self, clip_ids: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Which of these clips are committed."""
        ...


class PartWriter:
    """Collects finished clips and dead letters, and publishes them as parts.

    Args:
        storage: Root of the output.
        schema: Arrow schema of `clips/` (`ledger.clip_schema`).
        origin: Who writes.
        audio: Where audio bytes go.
        audio_format: File extension of the clips.
        limits: When a part is due.
        guard: Called before each commit; raises where this run may no longer write.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        schema: pa.Schema,
        origin: PartOrigin,
        audio: AudioMode,
        audio_format: AudioFormat,
        limits: PartLimits,
        guard: Callable[[], None],
    ) -> None:
        self._storage, self._schema, self._guard = storage, schema, guard
        self._own = pa.schema([field for field in schema if field.name in RESERVED_COLUMNS])
        self._origin = origin
        self._audio, self._format, self._limits = audio, audio_format, limits
        self._pending = _Pending()
        # Parts of a kind are numbered without gaps, which `ledger.commits` relies on.
        self._seq, self._failed_seq, self._scores_seq = 0, 0, 0
        self.committed = Committed()

    def __len__(self) -> int:
        return len(self._pending)

    def add_clip(
        self,
        row: ClipRow,
        audio: bytes,
        extras: pa.Table = NO_EXTRAS,
        sidecar: bytes | None = None,
    ) -> None:
        """Adds a clip.

        Args:
            row: Its row.
            audio: Its encoded file.
            extras: The extra columns of the manifest, a table of one row.
            sidecar: Its C2PA manifest, where that is not inside the file.
        """
        self._pending.clips.append(_PendingClip(row, extras, audio, sidecar))
        self._pending.n_bytes += len(audio)
        self._mark()
        log.info(line("finished", **self._named(row), audio_s=row.audio_s, bytes=len(audio)))

    def add_dead_letter(self, row: DeadLetterRow) -> None:
        """Adds a dead letter."""
        self._pending.dead_letters.append(row)
        self._mark()
        told = {"stage": row.stage, "error_class": row.error_class, "message": row.message}
        log.warning(line("failed", **self._named(row), **told))

    def add_scores(self, rows: Sequence[ScoreRow], n_set_aside: int = 0) -> None:
        """Adds the scores of takes that were judged.

        Args:
            rows: The scores.
            n_set_aside: How many of these takes have no clip.
        """
        self._pending.scores += rows
        self._pending.n_set_aside += n_set_aside
        self._mark()

    def _named(self, row: ClipRow | DeadLetterRow) -> dict[str, Any]:
        """The fields of a log line that say which clip it is about."""
        ids = {"clip_id": row.clip_id, "id": row.id, "take": row.take}
        return {"run": self._origin.run_id, "replica": self._origin.replica, **ids}

    def _mark(self) -> None:
        if self._pending.since is None:
            self._pending.since = time.monotonic()

    def due_in_s(self) -> float | None:
        """Seconds until the part must be cut; None where nothing waits."""
        pending, limits = self._pending, self._limits
        if pending.since is None:
            return None
        if len(pending) >= limits.max_clips or pending.n_bytes >= limits.max_bytes:
            return 0.0
        return max(0.0, pending.since + limits.max_age_s - time.monotonic())

    def commit(self, done: KnownIds) -> list[str]:
        """Publishes what waits as one part, without the clips that an earlier process of this actor
        has committed since (Ray starts a replica anew when it cannot reach the old one).

        Args:
            done: What has been committed.

        Returns:
            Ids of the clips that this commit has added.

        Raises:
            StorageError, LeaseLostError: Nothing is committed that readers could see half of, and
                whoever resumes makes the rows again.
        """
        pending, self._pending = self._pending, _Pending()
        known = done.contains_many([clip.row.clip_id for clip in pending.clips])
        pending.clips = [
            clip for clip, is_known in zip(pending.clips, known, strict=True) if not is_known
        ]
        if not len(pending) and not pending.scores:
            return []
        started = time.monotonic()
        self._guard()
        origin = self._origin
        part = f"{origin.run_id}-{origin.replica}-{self._seq:06d}"
        if pending.scores:  # before the clips: see `pipeline.ledger.scores`
            scored = (origin.run_id, origin.replica, self._scores_seq, origin.generation)
            write_score_part(self._storage, pending.scores, *scored)
            self._scores_seq += 1
            self._guard()
        if pending.clips:
            rows = self._write_audio(pending.clips)
            self._guard()
            extras = [clip.extras for clip in pending.clips]
            table = append_extras(pa.Table.from_pylist(rows, self._own), extras, self._schema)
            name = (origin.run_id, origin.replica, self._seq, origin.generation)
            ledger.write_clip_part(self._storage, table, *name)
            self._seq += 1
        if pending.dead_letters:
            failed = [row.as_columns() for row in pending.dead_letters]
            table = pa.Table.from_pylist(failed, schema=ledger.FAILED_SCHEMA)
            name = (origin.run_id, origin.replica, self._failed_seq, origin.generation)
            ledger.write_dead_letter_part(self._storage, table, *name)
            self._failed_seq += 1
        self.committed.add(pending)
        log.info(
            line(
                "committed",
                run=origin.run_id,
                replica=origin.replica,
                part=part,
                clips=len(pending.clips),
                failed=len(pending.dead_letters),
                bytes=pending.n_bytes,
                seconds=time.monotonic() - started,
            )
        )
        return [clip.row.clip_id for clip in pending.clips]

    def _write_audio(self, clips: list[_PendingClip]) -> list[dict[str, Any]]:
        """Puts the audio where the mode wants it; the rows of the clips with our columns."""
        names = [f"{clip.name}.{self._format}" for clip in clips]
        rows = [clip.columns(self._format) for clip in clips]
        data = [clip.audio for clip in clips]
        sidecars = [clip.sidecar for clip in clips]
        if self._audio == "files":
            paths = [f"audio/{name[:2]}/{name}" for name in names]
            self._storage.put_many(
                dict(zip(paths, data, strict=True))
                | {sidecar_of(p): s for p, s in zip(paths, sidecars, strict=True) if s is not None}
            )
            for row, path in zip(rows, paths, strict=True):
                row |= {"audio_path": path, "audio_member": None}
        elif self._audio == "webdataset":
            tar_path = (
                f"audio/shard-{self._origin.run_id}-{self._origin.replica}-{self._seq:06d}.tar"
            )
            told = [row | as_python(clip.extras) for row, clip in zip(rows, clips, strict=True)]
            self._storage.put(tar_path, _webdataset_shard(names, told, data, sidecars))
            for row, name in zip(rows, names, strict=True):
                row |= {"audio_path": tar_path, "audio_member": name}
        else:
            for row, name, audio, sidecar in zip(rows, names, data, sidecars, strict=True):
                row |= {"audio_path": None, "audio_member": None, "c2pa_sidecar": sidecar}
                row["audio"] = {"bytes": audio, "path": name}
        return rows


def _webdataset_shard(
    names: list[str],
    rows: list[dict[str, Any]],
    data: list[bytes],
    sidecars: list[bytes | None],
) -> bytes:
    """A tar with `<key>.<format>`, `<key>.json` and the prompt as `<key>.txt` for each clip, and
    `<key>.c2pa` for sidecars."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, row, audio, sidecar in zip(names, rows, data, sidecars, strict=True):
            meta = json.dumps(row, default=str, sort_keys=True, ensure_ascii=False).encode()
            key = name.rsplit(".", 1)[0]
            caption = (row["prompt"] or "").encode()
            members = {name: audio, f"{key}.json": meta, f"{key}.txt": caption}
            if sidecar is not None:
                members[sidecar_of(name)] = sidecar
            for member, content in members.items():
                entry = tarfile.TarInfo(member)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
