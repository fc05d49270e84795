"""The last step of a clip: codes become audio, audio becomes a row of the part or a dead letter."""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from manifests.identity import retake_seed
from musicgen.engine.device_errors import is_broken_cuda, retried_with_memory
from musicgen.model import MusicGen
from pipeline.audio.marks.signing import open_named_signer
from pipeline.audio.marks.watermark import load_watermark
from pipeline.audio.scores.scoring import ScorerSet
from pipeline.ledger import SETTLED
from pipeline.ledger.writer import PartWriter
from pipeline.planning.clips import DeadLetter
from pipeline.replica.clip_rows import ClipRowBuilder
from pipeline.replica.messages import ClipStatus, ReplicaSettings
from pipeline.replica.postprocess import (
    FinishedClip,
    Marks,
    Postprocessor,
    QualityError,
    ScoringError,
)
from pipeline.replica.takes import TakeTable, Verdict
from pipeline.replica.task import ClipTask
from pipeline.telemetry.logfmt import line
from pipeline.telemetry.timing import ReplicaTimes

log = logging.getLogger(__name__)

SMALL_PIECE = 200  # frames that the codec decodes at once where memory is short


class Finisher:
    """Belongs to the thread that owns the writer; measuring and encoding have threads of their own.

    Args:
        settings: The job and the model.
        model: Decodes.
        row_builder: Makes rows and dead letters.
        writer: Gathers them.
        times: Counts what each step takes.
        take_again: Given a clip that failed its quality checks, with its next seed.

    Attributes:
        takes: Those that are judged together.
    """

    def __init__(
        self,
        settings: ReplicaSettings,
        model: MusicGen,
        row_builder: ClipRowBuilder,
        writer: PartWriter,
        times: ReplicaTimes,
        take_again: Callable[[ClipTask], None],
    ) -> None:
        config = settings.config
        self._settings, self._model, self._times = settings, model, times
        self._row_builder, self._writer, self._take_again = row_builder, writer, take_again
        specs = config.quality.scorers
        scorers = ScorerSet.open(specs, settings.scorers) if specs else None
        self._postprocessor = Postprocessor(config, row_builder, _marks(settings), scorers)
        self._pool = ThreadPoolExecutor(config.audio.encode_threads, "finishing")
        self.takes = TakeTable()

    def statuses(self, batch: Sequence[ClipTask]) -> list[tuple[ClipTask, ClipStatus]]:
        """Puts clips, or the dead letters that they became, into the part.

        Clips are measured and encoded side by side.

        Returns:
            The status of each but those that are made again: `held` where a take waits for the
            others of its row, whose own statuses come with the last of them.
        """
        finishing = [self._start(task) for task in batch]
        found: list[tuple[ClipTask, ClipStatus]] = []
        for task, clip in zip(batch, finishing, strict=True):
            found += self._conclude(task, clip)
        return found

    def close(self) -> None:
        """Finishes nothing more."""
        self._pool.shutdown(wait=False)

    def _start(self, task: ClipTask) -> Future[FinishedClip] | None:
        """Decodes in this thread, and has the clip finished in another."""
        if task.error is not None or task.codes is None:
            return None
        try:
            with self._times.beside("decode_s"):
                wav = self._decode(task.codes)
        except (ValueError, RuntimeError, MemoryError) as failed:
            broken: Future[FinishedClip] = Future()
            broken.set_exception(failed)
            return broken
        rate_hz = self._settings.info.sample_rate_hz
        return self._pool.submit(self._postprocessor.finish, task, wav, rate_hz)

    def _decode(self, codes: Tensor) -> NDArray[np.float32]:
        """Samples [C, N] of codes [K, T]; in small pieces where memory does not do for a whole."""

        def decode(piece_frames: int | None = None) -> NDArray[np.float32]:
            with self._model.beside_the_engine("codec"):
                wav: NDArray[np.float32] = self._model.decode(codes, piece_frames).numpy()
            return wav

        def in_pieces() -> NDArray[np.float32]:
            log.warning("the codec ran out of memory: decoding in pieces of %d frames", SMALL_PIECE)
            return decode(SMALL_PIECE)

        return retried_with_memory(decode, in_pieces)

    def _conclude(
        self, task: ClipTask, finishing: Future[FinishedClip] | None
    ) -> list[tuple[ClipTask, ClipStatus]]:
        outcome = self._outcome(task, finishing)
        if outcome is None:
            return []
        ended = self.takes.end(task, outcome)
        if ended is None:
            return [(task, self._add(task, outcome))]
        if isinstance(ended, str):
            return [(task, ClipStatus(ended, task.clip_id))]
        return [(verdict.task, self._settle(verdict)) for verdict in ended]

    def _outcome(
        self, task: ClipTask, finishing: Future[FinishedClip] | None
    ) -> FinishedClip | DeadLetter | None:
        """The clip or its dead letter; None where it is made again."""
        if isinstance(task.prepared, DeadLetter):
            return task.prepared
        stage, error = task.stage or "generate", task.error
        if finishing is not None:
            try:
                return self.finished(task, finishing)
            except QualityError as failed:
                if self._postprocessor.may_retake(task):
                    self._reseed(task, failed)
                    self._take_again(task)
                    return None
                stage, error = "qc", self._postprocessor.verdict(failed, task.retake)
            except ScoringError as failed:
                stage, error = "score", failed
            except (ValueError, RuntimeError, MemoryError) as invalid:
                if is_broken_cuda(invalid):
                    raise
                stage, error = "encode", invalid
        error = error or RuntimeError("the engine returned neither tokens nor an error")
        return task.spec.dead_letter(stage, error)

    def finished(self, task: ClipTask, finishing: Future[FinishedClip]) -> FinishedClip:
        """Waits for a clip.

        Raises:
            QualityError: It is out of the limits.
            SigningStoppedError: It can't be signed, nor can any after it.
        """
        with self._times.beside("encode_s"):
            return finishing.result()

    def _add(self, task: ClipTask, outcome: FinishedClip | DeadLetter) -> ClipStatus:
        """Puts a clip or a dead letter into the part."""
        if isinstance(outcome, DeadLetter):
            self._writer.add_dead_letter(self._row_builder.dead_letter(outcome))
            return ClipStatus("letter", task.clip_id)
        self._writer.add_clip(outcome.row, outcome.data, task.extras, outcome.sidecar)
        return ClipStatus("clip", task.clip_id, outcome.audio_s)

    def _settle(self, verdict: Verdict) -> ClipStatus:
        """Puts a take that was judged into the part: its scores, and the clip if it is kept."""
        task, builder = verdict.task, self._row_builder
        if verdict.letter is not None:
            return self._add(task, verdict.letter)
        clip, rule = verdict.clip, verdict.rule
        assert clip is not None
        is_new = verdict.kept and not rule.stands
        rows = builder.score_rows(task, clip.scores, rule.ruling, verdict.kept)
        self._writer.add_scores(rows, n_set_aside=not is_new)
        if is_new:
            return self._add(task, clip)
        if builder.failed_before(task.spec.row_key):  # no clip takes its dead letter back
            settled = RuntimeError("the take was made and judged, its dead letter no longer stands")
            letter = task.spec.dead_letter(SETTLED, settled)
            self._writer.add_dead_letter(builder.dead_letter(letter))
        return ClipStatus("known" if verdict.kept else "aside", task.clip_id)

    def _reseed(self, task: ClipTask, failed: QualityError) -> None:
        """Gives a clip its next seed. Its id stays, since that hashes the seed of the take."""
        spec = task.spec
        task.retake += 1
        task.seed_used = retake_seed(spec.seed_used, task.retake)
        task.codes = None
        builder = self._row_builder
        ids = {"clip_id": spec.clip_id, "id": spec.id, "take": spec.take}
        told = {"retake": task.retake, "error": str(failed)}
        log.info(line("retake", run=builder.run_id, replica=builder.replica, **ids, **told))


def _marks(settings: ReplicaSettings) -> Marks:
    """What the job marks clips with. MarksError: this node lacks what that takes."""
    wanted = settings.config.marks
    signer = open_named_signer(wanted, settings.c2pa_certificate)
    return Marks(signer, load_watermark(wanted))
