"""From samples to a file and its row: measure, judge, bring to level, encode."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from manifests.audio_file import decode_reference
from musicgen.audio import resample
from pipeline.audio.encode import Coding, encode
from pipeline.audio.level import to_level
from pipeline.audio.marks.signing import ClipSigner
from pipeline.audio.marks.watermark import Watermark
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
    sidecar: bytes | None = None  # its C2PA manifest, where that is not inside the file


@dataclass(frozen=True)
class Marks:
    """What marks the clips of a replica; None: nothing does.

    Attributes:
        signer: Of C2PA manifests.
        watermark: In the samples.
    """

    signer: ClipSigner | None = None
    watermark: Watermark | None = None


class Postprocessor:
    """Finishes the clips of one replica; the same samples and settings give the same bytes, up to
    the C2PA manifest, whose salts are random."""

    def __init__(
        self,
        config: JobConfig,
        row_builder: ClipRowBuilder,
        marks: Marks,
        scorers: ScorerSet | None = None,
    ) -> None:
        self.config, self.row_builder = config, row_builder
        self.marks, self.scorers = marks, scorers
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
            SigningStoppedError: No clip can be signed any more.
        """
        config, watermark = self.config, self.marks.watermark
        try:
            made = measure(wav, made_hz)
        except NotFiniteError as error:  # no setting lets that pass
            raise QualityError(str(error)) from error
        failed = config.quality.qc.failed(made)
        if failed and (config.quality.qc_action == "fail" or self.may_retake(task)):
            raise QualityError("; ".join(failed))
        if watermark is not None:  # after the checks: a mark must not make music of silence
            wav = watermark(wav, made_hz)
            made = measure(wav, made_hz)
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
        if watermark is not None:
            row = replace(row, watermark=watermark.name, watermark_strength=watermark.strength)
        audio_s = wav.shape[1] / made_hz
        return self._signed(FinishedClip(row, data, audio_s, scores))

    def _signed(self, clip: FinishedClip) -> FinishedClip:
        """The clip with its C2PA manifest; as it is where the job does not sign."""
        if self.marks.signer is None:
            return clip
        claim = self.row_builder.claim(clip.row)
        signed = self.marks.signer.sign(clip.data, self.coding.fmt, claim)
        row = replace(clip.row, c2pa=signed.layer, unsigned_sha256=signed.unsigned_sha256)
        return replace(clip, row=row, data=signed.data, sidecar=signed.sidecar)

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
