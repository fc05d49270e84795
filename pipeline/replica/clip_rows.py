"""What a replica writes down of its rows: clips with their provenance, and dead letters."""

import json
import platform
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import torch

from manifests.schema import ROLES
from musicgen.checkpoints.describe import ModelInfo
from pipeline.audio.level import Levelled
from pipeline.config import JobConfig
from pipeline.planning.clips import DeadLetter
from pipeline.replica.task import SAMPLING, ClipTask

GENERATION_COLUMNS = (*SAMPLING, "extend_stride_s", "style_eval_q", "style_excerpt_s")
_PACKAGES = ("musicgen-batch", "torch", "torchaudio", "transformers")


@dataclass(frozen=True)
class ClipRowBuilder:
    """Rows of `clips/` and `failed/` as this replica signs them.

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

    def provenance(self, engine_rows: int) -> dict[str, Any]:
        """How clips are made here; what it names is all that their bits depend on."""
        kind = torch.cuda.get_device_name(0) if self.device == "cuda" else platform.machine()
        versions = {name: version(name) for name in _PACKAGES}
        return {
            "model": self.info.name,
            "weights_hash": self.info.weights_hash,
            "weights_revision": self.info.revision,
            "weights_licence": self.info.weights_licence,
            "dtype": self.dtype,
            "device": f"{self.device}:{kind}",
            "threads": self.config.engine.threads_per_replica,
            "engine_rows": engine_rows,
            "versions": json.dumps(versions, sort_keys=True),
            "ai_generated": True,
        }

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
        made = named | _generation(task) | _level(levelled) | self.provenance(task.engine_rows)
        if posixpath.isabs(self.info.name) or self.info.name.startswith((".", "~")):
            made["model"] = posixpath.basename(self.info.name.rstrip("/"))
        return json.dumps(made, sort_keys=True, ensure_ascii=False)

    def clip(
        self,
        task: ClipTask,
        levelled: Levelled,
        *,
        shape: tuple[int, int],
        sample_rate_hz: int,
        qc_failed: Sequence[str],
    ) -> dict[str, Any]:
        """The row of `clips/`, without the columns that the commit fills and without extras.

        Args:
            shape: (channels, samples) of the audio in the file.
            sample_rate_hz: Of the file.
            qc_failed: The checks that it failed and was kept with.
        """
        spec = task.spec
        return {
            "clip_id": spec.clip_id,
            "row_key": spec.row_key,
            "id": spec.id,
            "take": spec.take,
            "prompt": spec.prompt,
            "duration_s": spec.params.duration_s,
            "n_frames": task.clip.n_frames,
            "seed": spec.seed,
            "seed_used": task.seed_used,
            **{f"{role}_uri": spec.reference_uris.get(role) for role in ROLES},
            **_generation(task),
            **asdict(levelled.quality),
            **_level(levelled),
            **self.provenance(task.engine_rows),
            "run_id": self.run_id,
            "attempts": self._attempts(spec.row_key),
            "created_at": datetime.now(UTC),
            "references": json.dumps(dict(spec.references), sort_keys=True),
            "retake": task.retake,
            "qc_failed": "; ".join(qc_failed) or None,
            "replica": self.replica,
            "sample_rate_hz": sample_rate_hz,
            "channels": shape[0],
            "n_samples": shape[1],
        }

    def dead_letter(self, letter: DeadLetter) -> dict[str, Any]:
        """The row of `failed/`."""
        return letter.record(self.run_id, self._attempts(letter.row_key))

    def _attempts(self, row_key: str) -> int:
        """How often the row was tried, this time included."""
        return 1 + self.attempts.get(row_key, 0)


def _generation(task: ClipTask) -> dict[str, Any]:
    """The generation parameters that are columns of `clips/`."""
    params = {name: getattr(task.spec.params, name) for name in GENERATION_COLUMNS}
    return params | {"separation": task.clip.separation}


def _level(levelled: Levelled) -> dict[str, Any]:
    """What was done to the clip's level."""
    return {
        "normalize_applied": levelled.normalize_applied,
        "gain_db": levelled.gain_db,
        "true_peak_limited": levelled.true_peak_limited,
    }
