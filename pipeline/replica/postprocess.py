"""From samples to a file and its row: measure, judge, bring to level, encode."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from manifests.audio_file import decode_reference
from musicgen.audio import resample
from pipeline.audio.encode import Coding, encode
from pipeline.audio.level import to_level
from pipeline.audio.measure import NotFiniteError, measure
from pipeline.audio.scores.protocol import ScoredClip
from pipeline.audio.scores.scoring import Score, ScorerSet
from pipeline.config import JobConfig
from pipeline.ledger.clip_row import ClipRow
from pipeline.replica.clip_rows import ClipRowBuilder
from pipeline.replica.task import ClipTask


class QualityError(ValueError):
    """A clip failed its quality checks; the message names measures, values and limits."""


class ScoringError(ValueError):
    """A clip could not be scored."""


@dataclass(frozen=True)
class FinishedClip:
    """What is committed of a clip."""

    row: ClipRow
    data: bytes  # the encoded file
    audio_s: float
    scores: tuple[Score, ...] = ()


class Postprocessor:
    """Finishes the clips of one replica; the same samples and settings give the same bytes."""

    def __init__(
        self, config: JobConfig, row_builder: ClipRowBuilder, scorers: ScorerSet | None = None
    ) -> None:
        self.config, self.row_builder, self.scorers = config, row_builder, scorers
        self.coding = Coding(
            config.audio.audio_format,
            config.audio.audio_bits,
            config.audio.mp3_kbps,
            config.audio.ogg_quality,
        )

    def finish(self, task: ClipTask, wav: NDArray[np.float32], made_hz: int) -> FinishedClip:
        """Finishes one clip.

        Args:
            wav: [C, N] samples as the model made them.
            made_hz: Their rate.

        Raises:
            QualityError: It fails its checks and may not be kept, or is made again.
            ScoringError: A scorer fails.
        """
        config = self.config
        try:
            made = measure(wav, made_hz)
        except NotFiniteError as error:  # no setting lets that pass
            raise QualityError(str(error)) from error
        failed = config.quality.qc.failed(made)
        if failed and (config.quality.qc_action == "fail" or self.may_retake(task)):
            raise QualityError("; ".join(failed))
        levelled = to_level(wav, made_hz, made, config.audio)
        rate_hz = self.coding.rate_hz(made_hz)
        samples = resample(torch.from_numpy(levelled.wav), made_hz, rate_hz).numpy()  # [C, N]
        data = encode(
            samples,
            rate_hz,
            self.coding,
            comment=self.row_builder.comment(task, levelled),
            title=task.spec.prompt or task.spec.id,
        )
        scores = self._scores(task, data)
        row = self.row_builder.clip(
            task,
            levelled,
            scores=scores,
            shape=(samples.shape[0], samples.shape[1]),
            sample_rate_hz=rate_hz,
            qc_failed=failed,
        )
        return FinishedClip(row, data, wav.shape[1] / made_hz, scores)

    def _scores(self, task: ClipTask, data: bytes) -> tuple[Score, ...]:
        """What scorers say of the file, decoded again: so `musicgen-batch score` says the same."""
        if self.scorers is None:
            return ()
        samples, rate_hz = decode_reference(data, task.spec.where)
        tune = None if task.clip.tune is None else task.clip.tune.astype(np.int64)
        try:
            return self.scorers.score(ScoredClip(samples, rate_hz, task.spec.prompt, tune))
        except (ValueError, RuntimeError, MemoryError) as error:
            raise ScoringError(f"a scorer failed: {type(error).__name__}: {error}") from error

    def may_retake(self, task: ClipTask) -> bool:
        """Whether a clip that failed is made again. Where no draw depends on the seed (greedy
        decoding, without a style whose excerpt is drawn), it would only be the same again."""
        params = task.spec.params
        drawn = params.use_sampling and params.temperature > 0
        return task.retake < self.config.quality.max_retakes and (
            drawn or "style" in task.spec.references
        )

    def verdict(self, failed: QualityError, retake: int) -> QualityError:
        """What the dead letter says of a clip whose last try failed, with the ways out."""
        tries = f"failed QC in {retake + 1} tries" if retake else "failed QC"
        if retake == self.config.quality.max_retakes:
            again = f"raise --max-retakes (now {retake}) or give the row another seed"
        else:
            again = "let the row be sampled (greedy decoding makes the same clip again)"
        return QualityError(
            f"{tries}: {failed}; loosen the limit, {again}, then `retry`; --qc-action keep keeps "
            "such clips and says so in their rows"
        )
