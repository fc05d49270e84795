"""The rows that a replica hands to the ledger: clips with their provenance, and dead letters."""

import json
import platform
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from typing import Any

import torch

from musicgen.checkpoints.describe import ModelInfo
from pipeline.audio.level import Levelled
from pipeline.audio.marks.signing import Claim
from pipeline.audio.scores.scoring import Score
from pipeline.audio.scores.table import COLUMN
from pipeline.config import JobConfig
from pipeline.ledger.clip_row import (
    ClipRow,
    ClipScores,
    DeadLetterRow,
    Provenance,
    ScorerFact,
    ScoreRow,
)
from pipeline.ledger.columns import VERSIONED_PACKAGES
from pipeline.planning.clips import DeadLetter
from pipeline.replica.task import SAMPLING, ClipTask

GENERATION_COLUMNS = (*SAMPLING, "extend_stride_s", "style_eval_q", "style_excerpt_s")


@dataclass(frozen=True)
class ClipRowBuilder:
    """Makes the rows of one replica: each names the run, the replica and the time.

    Attributes:
        device, dtype: Where and in what the model computes.
        bits_depend_on: As `LoadedModel.bits_depend_on` says.
        attempts: Earlier attempts by row key, for rows that have failed before.
    """

    config: JobConfig
    info: ModelInfo
    run_id: str
    replica: str
    device: str
    dtype: str
    bits_depend_on: str
    attempts: Mapping[str, int] = field(default_factory=dict)

    def provenance(self, engine_rows: int) -> Provenance:
        """How clips are made here, in a batch of that many rows."""
        return Provenance(
            model=self.info.full_name,
            weights_hash=self.info.weights_hash,
            weights_revision=self.info.revision,
            weights_licence=self.info.weights_licence,
            dtype=self.dtype,
            device=f"{self.device}:{_hardware(self.device)}",
            threads=self.config.engine.threads_per_replica,
            engine_rows=engine_rows,
            bits_depend_on=self.bits_depend_on,
            versions=_versions(),
        )

    def comment(self, task: ClipTask, levelled: Levelled) -> str:
        """The provenance that travels inside the audio file, as JSON. It holds nothing of run,
        time, host or path, so that the bytes of a clip repeat."""
        spec = task.spec
        named = {
            "clip_id": spec.clip_id,
            "id": spec.id,
            "take": spec.take,
            "prompt": spec.prompt,
            "seed_used": task.seed_used,
            "duration_s": spec.params.duration_s,
            "references": dict(spec.references),
        }
        how = asdict(self.provenance(task.engine_rows))
        del how["bits_depend_on"]  # which may be known better one day, for the same clip
        how["versions"] = json.dumps(how["versions"], sort_keys=True)
        made = named | _generation(task) | _level(levelled) | how | {"model": self._public_model}
        return json.dumps(made, sort_keys=True, ensure_ascii=False)

    def claim(self, row: ClipRow) -> Claim:
        """What the clip's C2PA manifest says of it."""
        return Claim(
            clip_id=row.clip_id,
            model=self._public_model,
            weights_hash=self.info.weights_hash,
            weights_licence=self.info.weights_licence,
            prompt=row.prompt,
            watermark=row.watermark,
        )

    @property
    def _public_model(self) -> str:
        """The model's name; of a local folder the last part alone."""
        name = self.info.full_name
        if posixpath.isabs(self.info.name) or self.info.name.startswith((".", "~")):
            return posixpath.basename(self.info.name.rstrip("/")) + name[len(self.info.name) :]
        return name

    def clip(
        self,
        task: ClipTask,
        levelled: Levelled,
        *,
        shape: tuple[int, int],
        sample_rate_hz: int,
        qc_failed: Sequence[str],
        scores: Sequence[Score] = (),
    ) -> ClipRow:
        """The row of `clips/`.

        Args:
            shape: (channels, samples) of the audio in the file.
            sample_rate_hz: Of the file.
            qc_failed: The checks that it failed and was kept with.
            scores: What the run's scorers say of it.
        """
        spec = task.spec
        return ClipRow(
            clip_id=spec.clip_id,
            row_key=spec.row_key,
            id=spec.id,
            take=spec.take,
            prompt=spec.prompt,
            duration_s=spec.params.duration_s,
            n_frames=task.clip.n_frames,
            n_samples=shape[1],
            sample_rate_hz=sample_rate_hz,
            channels=shape[0],
            melody_uri=spec.reference_uris.get("melody"),
            continuation_uri=spec.reference_uris.get("continuation"),
            style_uri=spec.reference_uris.get("style"),
            references=dict(spec.references),
            seed=spec.seed,
            seed_used=task.seed_used,
            retake=task.retake,
            **_generation(task),
            **_level(levelled),
            qc_failed="; ".join(qc_failed) or None,
            measures=levelled.measures,
            scores=_scores(scores),
            provenance=self.provenance(task.engine_rows),
            run_id=self.run_id,
            replica=self.replica,
            attempts=self._attempts(spec.row_key),
            created_at=datetime.now(UTC),
        )

    def score_rows(
        self, task: ClipTask, scores: Sequence[Score], ruling: str, kept: bool
    ) -> list[ScoreRow]:
        """The rows of `scores/` of a take that was judged.

        Args:
            scores: What the run's scorers say of it; the first one is the judge.
            ruling: How it was judged.
            kept: Whether it is among the best.
        """
        spec, now = task.spec, datetime.now(UTC)
        return [
            ScoreRow(
                clip_id=spec.clip_id,
                row_key=spec.row_key,
                id=spec.id,
                take=spec.take,
                seed_used=task.seed_used,
                scorer=score.scorer.name,
                checkpoint=score.scorer.checkpoint,
                digest=score.scorer.digest,
                score=score.value,
                ruling=ruling if number == 0 else None,
                kept=kept if number == 0 else None,
                run_id=self.run_id,
                created_at=now,
            )
            for number, score in enumerate(scores)
        ]

    def failed_before(self, row_key: str) -> bool:
        """Whether a dead letter of this take stood when the run began."""
        return row_key in self.attempts

    def dead_letter(self, letter: DeadLetter) -> DeadLetterRow:
        """The row of `failed/`."""
        return letter.as_row(self.run_id, self._attempts(letter.row_key))

    def _attempts(self, row_key: str) -> int:
        """How often the row was tried, this time included."""
        return 1 + self.attempts.get(row_key, 0)


@cache
def _versions() -> Mapping[str, str]:
    """Versions of the packages that decide the bits; reading them takes milliseconds."""
    return {name: version(name) for name in VERSIONED_PACKAGES}


@cache
def _hardware(device: str) -> str:
    """What computes."""
    return torch.cuda.get_device_name(0) if device == "cuda" else platform.machine()


def _generation(task: ClipTask) -> dict[str, Any]:
    """The generation parameters that are columns of `clips/`."""
    params = {name: getattr(task.spec.params, name) for name in GENERATION_COLUMNS}
    return params | {"separation": task.clip.separation}


def _scores(scores: Sequence[Score]) -> ClipScores:
    """The scores as columns."""
    if not scores:
        return ClipScores()
    values = {COLUMN + score.scorer.name: score.value for score in scores}
    facts = [
        ScorerFact(name=who.name, checkpoint=who.checkpoint, digest=who.digest)
        for who in (score.scorer for score in scores)
    ]
    return ClipScores(**values, scorers=facts)  # type: ignore[arg-type]


def _level(levelled: Levelled) -> dict[str, Any]:
    """What was done to the clip's level."""
    return {
        "normalize_applied": levelled.normalize_applied,
        "gain_db": levelled.gain_db,
        "true_peak_limited": levelled.true_peak_limited,
    }
