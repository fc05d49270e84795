"""From samples to a file and its row: measure, judge, bring to level, encode."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from musicgen.audio import resample
from pipeline.audio.encode import Coding, encode
from pipeline.audio.level import to_level
from pipeline.audio.measure import NotFiniteError, measure
from pipeline.config import JobConfig
from pipeline.ledger.clip_row import ClipRow
from pipeline.replica.clip_rows import ClipRowBuilder


class QualityError(ValueError):
    """A clip failed its quality checks; the message names measures, values and limits."""


@dataclass(frozen=True)
class FinishedClip:
    """What is committed of a clip."""

    row: ClipRow
    data: bytes  # the encoded file
    audio_s: float


class Postprocessor:
    """Finishes the clips of one replica; the same samples and settings give the same bytes."""

    def __init__(self, config: JobConfig, row_builder: ClipRowBuilder) -> None:
        self.config, self.row_builder = config, row_builder
        self.coding = Coding(
            config.audio_format, config.audio_bits, config.mp3_kbps, config.ogg_quality
        )

    def finish(
        self, spec: Mapping[str, Any], wav: NDArray[np.float32], made_hz: int, retake: int
    ) -> FinishedClip:
        """Finishes one clip.

        Args:
            spec: From `prepare.clip_spec`.
            wav: [C, N] samples as the model made them.
            made_hz: Their rate.
            retake: How often the clip was made again.

        Raises:
            QualityError: It fails its checks and may not be kept, or is made again.
        """
        config = self.config
        try:
            made = measure(wav, made_hz)
        except NotFiniteError as error:  # no setting lets that pass
            raise QualityError(str(error)) from error
        failed = config.qc.failed(made)
        if failed and (config.qc_action == "fail" or self.may_retake(spec, retake)):
            raise QualityError("; ".join(failed))
        levelled = to_level(wav, made_hz, made, config)
        rate_hz = self.coding.rate_hz(made_hz)
        samples = resample(torch.from_numpy(levelled.wav), made_hz, rate_hz).numpy()  # [C, N]
        data = encode(
            samples,
            rate_hz,
            self.coding,
            comment=self.row_builder.comment(spec, levelled),
            title=spec["prompt"] or spec["id"],
        )
        row = self.row_builder.clip(
            spec,
            levelled,
            shape=(samples.shape[0], samples.shape[1]),
            sample_rate_hz=rate_hz,
            retake=retake,
            qc_failed=failed,
        )
        return FinishedClip(row, data, wav.shape[1] / made_hz)

    def may_retake(self, spec: Mapping[str, Any], retake: int) -> bool:
        """Whether a clip that failed is made again: where no draw depends on the seed (greedy
        decoding, without a style whose excerpt is drawn), it would only be the same again."""
        generation = spec["generation"]
        drawn = generation["use_sampling"] and generation["temperature"] > 0
        return retake < self.config.max_retakes and (drawn or "style" in spec["references"])

    def verdict(self, failed: QualityError, spec: Mapping[str, Any], retake: int) -> QualityError:
        """What the dead letter says of a clip whose last try failed, with the ways out."""
        tries = f"failed QC in {retake + 1} tries" if retake else "failed QC"
        if retake == self.config.max_retakes:
            again = f"raise --max-retakes (now {retake}) or give the row another seed"
        else:
            again = "let the row be sampled (greedy decoding makes the same clip again)"
        return QualityError(
            f"{tries}: {failed}; loosen the limit, {again}, then `retry`; --qc-action keep keeps "
            "such clips and says so in their rows"
        )
