"""What a replica hands to the ledger: a row of `clips/` or of `failed/`, typed.

`columns` says what each of them means. The columns of a clip's audio file and of its sidecar
(`audio_...`, `c2pa_sidecar...`) are absent: the writer fills them when it has the bytes. The
manifest's extra columns travel beside a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pipeline.audio.measures_table import AudioMeasures


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
    versions: str
    ai_generated: bool = True


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
    references: str
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
        groups = ("measures", "provenance")
        own = {name: value for name, value in vars(self).items() if name not in groups}
        return own | vars(self.measures) | vars(self.provenance)


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
