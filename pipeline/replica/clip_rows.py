"""The rows that a replica hands to the ledger: clips with their provenance, and dead letters."""

import json
import platform
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import torch

from musicgen.checkpoints.describe import ModelInfo
from pipeline.audio.level import Levelled
from pipeline.config import JobConfig
from pipeline.ledger.clip_row import ClipRow, DeadLetterRow, Provenance

_FROM_SPEC = (
    *("clip_id", "row_key", "id", "take", "prompt", "duration_s", "n_frames", "seed", "seed_used"),
    *("melody_uri", "continuation_uri", "style_uri"),
)
_IN_COMMENT = ("clip_id", "id", "take", "prompt", "seed_used", "duration_s", "references")
_PACKAGES = ("musicgen-batch", "torch", "torchaudio", "transformers")


@dataclass(frozen=True)
class ClipRowBuilder:
    """Makes the rows of one replica: each names the run, the replica and the time.

    Attributes:
        device, dtype: Where and in what the model computes.
        attempts: Earlier attempts by row key, for rows that have failed before.
    """

    config: JobConfig
    info: ModelInfo
    run_id: str
    replica: str
    device: str
    dtype: str
    attempts: Mapping[str, int] = field(default_factory=dict)

    def provenance(self, engine_rows: int) -> Provenance:
        """How clips are made here, in a batch of that many rows."""
        kind = torch.cuda.get_device_name(0) if self.device == "cuda" else platform.machine()
        versions = {name: version(name) for name in _PACKAGES}
        return Provenance(
            model=self.info.name,
            weights_hash=self.info.weights_hash,
            weights_revision=self.info.revision,
            weights_licence=self.info.weights_licence,
            dtype=self.dtype,
            device=f"{self.device}:{kind}",
            threads=self.config.threads_per_replica,
            engine_rows=engine_rows,
            versions=json.dumps(versions, sort_keys=True),
        )

    def comment(self, spec: Mapping[str, Any], levelled: Levelled) -> str:
        """The provenance that travels inside the audio file, as JSON. It holds nothing of run,
        time, host or path, so that the bytes of a clip repeat."""
        named = {name: spec[name] for name in _IN_COMMENT}
        how = asdict(self.provenance(spec["engine_rows"]))
        made = named | spec["generation"] | _level(levelled) | how
        if posixpath.isabs(self.info.name) or self.info.name.startswith((".", "~")):
            made["model"] = posixpath.basename(self.info.name.rstrip("/"))
        return json.dumps(made, sort_keys=True, ensure_ascii=False)

    def clip(
        self,
        spec: Mapping[str, Any],
        levelled: Levelled,
        *,
        shape: tuple[int, int],
        sample_rate_hz: int,
        retake: int,
        qc_failed: Sequence[str],
    ) -> ClipRow:
        """The row of `clips/`.

        Args:
            spec: From `prepare.clip_spec`.
            shape: (channels, samples) of the audio in the file.
            sample_rate_hz: Of the file.
            retake: How often the clip was made again.
            qc_failed: The checks that it failed and was kept with.
        """
        return ClipRow(
            **{name: spec[name] for name in _FROM_SPEC},
            **spec["generation"],
            **_level(levelled),
            **self._signature(spec["row_key"]),
            measures=levelled.measures,
            provenance=self.provenance(spec["engine_rows"]),
            references=json.dumps(spec["references"], sort_keys=True),
            retake=retake,
            qc_failed="; ".join(qc_failed) or None,
            replica=self.replica,
            sample_rate_hz=sample_rate_hz,
            channels=shape[0],
            n_samples=shape[1],
        )

    def dead_letter(self, spec: Mapping[str, Any], stage: str, error: Exception) -> DeadLetterRow:
        """The row of `failed/` for a clip that could not be made here."""
        names = ("row_key", "clip_id", "id", "take", "row", "source", "row_json")
        where = f"{spec['source']} row {spec['row']} (id={spec['id']})"
        return DeadLetterRow(
            **{name: spec[name] for name in names},
            **self._signature(spec["row_key"]),
            stage=stage,
            error_class=error_class(error),
            message=f"{where}: {error}",
        )

    def passed_on(self, dead_letter: Mapping[str, Any]) -> DeadLetterRow:
        """The row of `failed/` for a dead letter from the prepare pool."""
        return DeadLetterRow(**dead_letter, **self._signature(dead_letter["row_key"]))

    def _signature(self, row_key: str) -> dict[str, Any]:
        return {
            "run_id": self.run_id,
            "attempts": 1 + self.attempts.get(row_key, 0),
            "created_at": datetime.now(UTC),
        }


def _level(levelled: Levelled) -> dict[str, Any]:
    """What was done to the clip's level."""
    return {
        "normalize_applied": levelled.normalize_applied,
        "gain_db": levelled.gain_db,
        "true_peak_limited": levelled.true_peak_limited,
    }


def error_class(error: Exception) -> str:
    """The name that failures are counted by: the engine says of what it can't do a ValueError."""
    return "UnsuitableRowError" if type(error) is ValueError else type(error).__name__
