"""Adds scores to the clips that stand in an output, as parts in `scores/`.

It may be killed at any moment: what a part holds is scored, and the same command goes on with the
rest. A clip whose scores stand already, there or in its own row, is not scored again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from manifests.audio_file import decode_reference
from manifests.isolation.pool import ReaderPool, Work
from manifests.isolation.process import Factory
from manifests.schema import resolve_uri
from manifests.uris.policy import ReferenceAccess
from pipeline.audio.scores.protocol import ScoredClip, Scorer, ScorerIdentity
from pipeline.audio.scores.table import COLUMN
from pipeline.ledger.clip_audio import AudioReader, MissingAudioError
from pipeline.ledger.clip_row import ScoreRow
from pipeline.ledger.lease import Lease
from pipeline.ledger.parts import list_parts, new_replica_id, new_run_id, reading
from pipeline.ledger.scores import read_scores, write_score_part
from pipeline.prepare.references import TUNE_READER, TuneWork
from pipeline.storage import THREADS, ObjectInfo, Storage
from pipeline.telemetry.words import clock, counted

CLIPS_AT_ONCE = 32  # read ahead together
PART_ROWS, PART_S = 2048, 20.0  # a part is published at one of these
COLUMNS = (
    *("clip_id", "row_key", "id", "take", "seed_used", "prompt", "duration_s", "run_id"),
    *("melody_uri", "references", "audio_path", "audio_member", "audio_format"),
)

Row = dict[str, Any]


@dataclass
class ScorerTally:
    """What one scorer did.

    Attributes:
        scored: Clips that got a score now.
        known: Those that had one by the same scorer.
        silent: Those of which it has nothing to say.
        left: Those whose audio or melody could not be had: the next call tries them again.
        mean: Of the scores that were given now; None without any.
    """

    scored: int = 0
    known: int = 0
    silent: int = 0
    left: int = 0
    mean: float | None = None

    def add(self, score: float | None) -> None:
        """Counts one more clip."""
        if score is None:
            self.silent += 1
            return
        self.mean = ((self.mean or 0.0) * self.scored + score) / (self.scored + 1)
        self.scored += 1


@dataclass
class ScoreTally:
    """How far the scoring has come, in clips; a `telemetry.progress.Shown`."""

    total: int
    ended: int = 0
    skipped: int = 0  # since they are scored
    scorers: dict[str, ScorerTally] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)  # why clips were left
    started: float = field(default_factory=time.monotonic)

    @property
    def eta(self) -> str:
        """When it will be over, by the clips that were scored so far."""
        done = self.ended - self.skipped
        if not done:
            return "?"
        return clock((self.total - self.ended) * (time.monotonic() - self.started) / done)

    def line(self) -> str:
        """The counts in a sentence."""
        wall = clock(time.monotonic() - self.started)
        clips = counted(self.total, "clip")
        return f"{self.ended} of {clips} scored, {wall} elapsed, ETA {self.eta}"

    def short_line(self, columns: int) -> str:
        """What fits into so many columns."""
        line = self.line()
        return line if len(line) <= columns else f"{self.ended}/{self.total}  ETA {self.eta}"

    def facts(self) -> dict[str, Any]:
        """For programs."""
        scorers = {name: asdict(tally) for name, tally in self.scorers.items()}
        return {"clips": self.total, "scorers": scorers, "reasons": self.reasons}


@dataclass(frozen=True)
class References:
    """Where the melody references of clips lie.

    Attributes:
        manifests: By run, the manifest that relative addresses count from.
        access: How they may be opened.
    """

    manifests: Mapping[str, str]
    access: ReferenceAccess

    def work(self, row: Row) -> TuneWork | None:
        """The melody of a clip; None where it has none that can be found again."""
        uri, base = row["melody_uri"], self.manifests.get(row["run_id"])
        if uri is None or base is None:
            return None
        token = _token(row["references"])
        return TuneWork(resolve_uri(uri, base), token, row["duration_s"])


def score_output(
    lease: Lease,
    scorers: Sequence[Scorer],
    references: References,
    watch: Callable[[ScoreTally], None] = lambda tally: None,
) -> ScoreTally:
    """Scores what is not scored yet.

    Args:
        lease: Of the output, held.
        scorers: The scorers.
        references: For those that hear melodies.
        watch: Told of the progress.
    """
    storage = lease.storage
    parts = list_parts(storage, "clips")
    tally = ScoreTally(
        _count(storage, parts), scorers={s.identity.name: ScorerTally() for s in scorers}
    )
    writer = _Writer(lease)
    factory = Factory(TUNE_READER, (references.access.plain(),))
    with (
        ReaderPool(factory, references.access.policy.readers_mb) as readers,
        ThreadPoolExecutor(THREADS) as pool,
    ):
        hearing = _Hearing(storage, references, readers, pool)
        known = _known(storage)
        for rows in _chunks(storage, parts):
            asked = [(row, _unscored(row, scorers, known, tally)) for row in rows]
            wanted = [(row, those) for row, those in asked if those]
            tally.skipped += len(rows) - len(wanted)
            needs_tune = [any(s.needs.melody for s in those) for _, those in wanted]
            heard = hearing.clips([row for row, _ in wanted], needs_tune)
            for (row, those), clip in zip(wanted, heard, strict=True):
                writer.add(_scored(row, those, clip, tally))
            tally.ended += len(rows)
            watch(tally)
    writer.publish()
    return tally


def _scored(
    row: Row, scorers: Sequence[Scorer], clip: ScoredClip | str, tally: ScoreTally
) -> Iterator[tuple[Row, ScorerIdentity, float | None]]:
    """What the scorers say of a clip, or nothing where it could not be had."""
    for scorer in scorers:
        counts, reason = tally.scorers[scorer.identity.name], None
        if isinstance(clip, str):
            reason = clip
        elif scorer.needs.melody and clip.tune is None and _token(row["references"]) is not None:
            reason = "its melody is out of reach"
        if reason is not None:
            counts.left += 1
            tally.reasons[reason] = tally.reasons.get(reason, 0) + 1
            continue
        assert isinstance(clip, ScoredClip)
        (score,) = scorer.score([clip])
        counts.add(score)
        yield row, scorer.identity, score


@dataclass
class _Hearing:
    """Reads the audio and the melodies of clips."""

    storage: Storage
    references: References
    readers: ReaderPool
    pool: ThreadPoolExecutor

    def __post_init__(self) -> None:
        self._inside = AudioReader(self.storage)  # for tars and parts, one after the other

    def clips(self, rows: Sequence[Row], needs_tune: Sequence[bool]) -> list[ScoredClip | str]:
        """The clips, each with its tune where that is wanted and can be had; or why one could not
        be read."""
        works = [
            self.references.work(r) if n else None for r, n in zip(rows, needs_tune, strict=True)
        ]
        distinct = [*dict.fromkeys(work for work in works if work is not None)]
        limit_s = self.references.access.policy.reading_limit_s(1)
        answers = self.readers.answers([Work(work, limit_s) for work in distinct])
        tunes = dict(zip(distinct, answers, strict=True))
        audio = [
            partial(self.pool.submit(self._read, AudioReader(self.storage), row).result)
            if row["audio_path"] and not row["audio_member"]
            else partial(self._read, self._inside, row)
            for row in rows
        ]
        found: list[ScoredClip | str] = []
        for row, read, work in zip(rows, audio, works, strict=True):
            heard = read()
            if isinstance(heard, str):
                found.append(heard)
                continue
            tune = None if work is None else tunes[work]
            if isinstance(tune, Exception):
                tune = None
            told = None if tune is None else np.asarray(tune, np.int64)
            found.append(ScoredClip(*heard, row["prompt"], told))
        return found

    def _read(self, reader: AudioReader, row: Row) -> tuple[Any, int] | str:
        try:
            return decode_reference(reader.read(row), row["clip_id"])
        except (MissingAudioError, ValueError):
            return "its audio can't be read: run verify"


class _Writer:
    """Publishes scores as parts."""

    def __init__(self, lease: Lease) -> None:
        self._lease, self._rows = lease, list[ScoreRow]()
        self._run_id, self._name, self._seq = new_run_id(), new_replica_id(), 0
        self._next = time.monotonic() + PART_S

    def add(self, scores: Iterator[tuple[Row, ScorerIdentity, float | None]]) -> None:
        """Adds the scores of a clip."""
        for row, scorer, score in scores:
            own = {name: row[name] for name in ("clip_id", "row_key", "id", "take", "seed_used")}
            self._rows.append(
                ScoreRow(
                    **own,
                    scorer=scorer.name,
                    checkpoint=scorer.checkpoint,
                    digest=scorer.digest,
                    score=score,
                    ruling=None,
                    kept=None,
                    run_id=self._run_id,
                    created_at=datetime.now(UTC),
                )
            )
        if len(self._rows) >= PART_ROWS or time.monotonic() >= self._next:
            self.publish()

    def publish(self) -> None:
        """Publishes what waits."""
        self._next = time.monotonic() + PART_S
        if not self._rows:
            return
        self._lease.check()
        name = (self._run_id, self._name, self._seq, self._lease.generation)
        write_score_part(self._lease.storage, self._rows, *name)
        self._seq += 1
        self._rows = []


def _known(storage: Storage) -> set[tuple[str, str]]:
    """Which clips stand in `scores/`, each with the digest of the scorer."""
    table = read_scores(storage, ["clip_id", "digest"])
    return set(zip(table["clip_id"].to_pylist(), table["digest"].to_pylist(), strict=True))


def _unscored(
    row: Row, scorers: Sequence[Scorer], known: set[tuple[str, str]], tally: ScoreTally
) -> list[Scorer]:
    """The scorers that have not said anything of a clip yet."""
    own = {fact["digest"] for fact in row.get("scorers") or ()}
    left = []
    for scorer in scorers:
        digest = scorer.identity.digest
        if digest in own or (row["clip_id"], digest) in known:
            tally.scorers[scorer.identity.name].known += 1
        else:
            left.append(scorer)
    return left


def _chunks(storage: Storage, parts: Sequence[ObjectInfo]) -> Iterator[list[Row]]:
    """The rows of all clips, some at a time."""
    for info in parts:
        with reading(storage, info) as part:
            names = [*COLUMNS, *({"scorers"} & set(part.schema_arrow.names))]
            table = part.read(columns=names)
        for start in range(0, table.num_rows, CLIPS_AT_ONCE):
            rows = table.slice(start, CLIPS_AT_ONCE).to_pylist()
            yield [row | {"part": info.path} for row in rows]


def _count(storage: Storage, parts: Sequence[ObjectInfo]) -> int:
    total = 0
    for info in parts:
        with reading(storage, info) as part:
            total += part.metadata.num_rows
    return total


def _token(references: str | Mapping[str, str | None]) -> str | None:
    """What names the content of the melody reference of a row."""
    told = json.loads(references) if isinstance(references, str) else references
    token: str | None = told.get("melody")
    return token


def scores_of_clips(storage: Storage) -> pa.Table:
    """Every score of a clip that stands, wherever it lies: clip_id, scorer, score."""
    schema = pa.schema([("clip_id", pa.string()), ("scorer", pa.string()), ("score", pa.float64())])
    tables = [read_scores(storage, schema.names)]
    for info in list_parts(storage, "clips"):
        with reading(storage, info) as part:
            names = [n for n in part.schema_arrow.names if n.startswith(COLUMN)]
            table = part.read(columns=["clip_id", *names])
        for name in names:
            scorer = pa.repeat(name.removeprefix(COLUMN), table.num_rows)
            found = pa.table({"clip_id": table["clip_id"], "scorer": scorer, "score": table[name]})
            tables.append(found.filter(found["score"].is_valid()))
    return pa.concat_tables([schema.empty_table(), *(table.cast(schema) for table in tables)])
