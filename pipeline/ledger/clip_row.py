"""What a replica hands to the ledger: a row of `clips/` or of `failed/`, typed.

`columns` says what each of them means. The columns of a clip's audio file and of its sidecar
(`audio_...`, `c2pa_sidecar...`) are absent: the writer fills them when it has the bytes. The
manifest's extra columns travel beside a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypedDict

from pipeline.audio.measures_table import AudioMeasures
from pipeline.ledger.columns import REFERENCE_ROLES, field_of_package


@dataclass(frozen=True)
class Provenance:
    """How a replica makes clips; what it names is all that their bits depend on."""

    model: str
    weights_hash: str
    weights_revision: str | None
    weights_licence: str
    dtype: str
    device: str
    threads: int
    engine_rows: int
    bits_depend_on: str
    versions: Mapping[str, str]
    """package to version"""
    ai_generated: bool = True


class ScorerFact(TypedDict):
    """Which scorer gave a score, as a row holds it."""

    name: str
    checkpoint: str
    digest: str


@dataclass(frozen=True)
class ClipScores:
    """What the scorers of a run say of a clip; None where one has nothing to say, or was not asked.
    `scorers` names those that were asked."""

    score_melody: float | None = None
    score_key: float | None = None
    score_tempo: float | None = None
    score_voice: float | None = None
    score_clap: float | None = None
    score_aesthetics: float | None = None
    scorers: list[ScorerFact] | None = None


@dataclass(frozen=True)
class ClipRow:
    """A finished clip."""

    clip_id: str
    row_key: str
    id: str
    take: int
    prompt: str | None
    duration_s: float
    n_frames: int
    n_samples: int
    sample_rate_hz: int
    channels: int
    melody_uri: str | None
    continuation_uri: str | None
    style_uri: str | None
    references: Mapping[str, str]
    """role to what identifies the content of that reference"""
    seed: int | None
    seed_used: int
    retake: int
    cfg_coef: float
    cfg_coef_beta: float | None
    temperature: float
    top_k: int
    top_p: float
    use_sampling: bool
    extend_stride_s: float | None
    style_eval_q: int | None
    style_excerpt_s: float | None
    separation: str | None
    normalize_applied: str
    gain_db: float
    true_peak_limited: bool
    qc_failed: str | None
    measures: AudioMeasures
    scores: ClipScores
    provenance: Provenance
    run_id: str
    replica: str
    attempts: int
    created_at: datetime
    watermark: str | None = None
    watermark_strength: float | None = None
    c2pa: str | None = None
    unsigned_sha256: str | None = None

    @property
    def audio_s(self) -> float:
        """Length of the audio in the file, in seconds."""
        return self.n_samples / self.sample_rate_hz

    def as_columns(self) -> dict[str, Any]:
        """The columns of `clips/` that a replica fills, by name."""
        groups = ("measures", "scores", "provenance")
        own = {name: value for name, value in vars(self).items() if name not in groups}
        nested = {
            "references": {role: self.references.get(role) for role in REFERENCE_ROLES},
            "versions": {
                field_of_package(name): version
                for name, version in self.provenance.versions.items()
            },
        }
        return own | vars(self.measures) | vars(self.scores) | vars(self.provenance) | nested


@dataclass(frozen=True)
class DeadLetterRow:
    """A take of a row, or a whole row, that failed."""

    row_key: str
    clip_id: str | None
    id: str | None
    take: int | None
    row: int
    source: str
    stage: str
    error_class: str
    message: str
    attempts: int
    run_id: str
    created_at: datetime
    row_json: str

    def as_columns(self) -> dict[str, Any]:
        """The columns of `failed/`, by name."""
        return dict(vars(self))


@dataclass(frozen=True)
class ScoreRow:
    """What one scorer says of one clip, and whether the take was kept by it."""

    clip_id: str
    row_key: str
    id: str
    take: int
    seed_used: int
    scorer: str
    checkpoint: str
    digest: str
    score: float | None
    ruling: str | None
    kept: bool | None
    run_id: str
    created_at: datetime

    def as_columns(self) -> dict[str, Any]:
        """The columns of `scores/`, by name."""
        return dict(vars(self))
