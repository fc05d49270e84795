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
from pipeline.ledger.writer import PartWriter
from pipeline.planning.clips import DeadLetter
from pipeline.replica.clip_rows import ClipRowBuilder
from pipeline.replica.messages import ClipStatus, ReplicaSettings
from pipeline.replica.postprocess import FinishedClip, Marks, Postprocessor, QualityError
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
        self._postprocessor = Postprocessor(config, row_builder, _marks(settings))
        self._pool = ThreadPoolExecutor(config.audio.encode_threads, "finishing")

    def statuses(self, batch: Sequence[ClipTask]) -> list[ClipStatus | None]:
        """Puts clips, or the dead letters that they became, into the part.

        Clips are measured and encoded side by side.

        Returns:
            The status of each, or None where a clip is made again.
        """
        finishing = [self._start(task) for task in batch]
        return [self._conclude(task, clip) for task, clip in zip(batch, finishing, strict=True)]

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
    ) -> ClipStatus | None:
        if isinstance(task.prepared, DeadLetter):
            self._writer.add_dead_letter(self._row_builder.dead_letter(task.prepared))
            return ClipStatus("letter", task.clip_id)
        stage, error = task.stage or "generate", task.error
        if finishing is not None:
            try:
                return self.add_clip(task, finishing)
            except QualityError as failed:
                if self._postprocessor.may_retake(task):
                    self._reseed(task, failed)
                    self._take_again(task)
                    return None
                stage, error = "qc", self._postprocessor.verdict(failed, task.retake)
            except (ValueError, RuntimeError, MemoryError) as invalid:
                if is_broken_cuda(invalid):
                    raise
                stage, error = "encode", invalid
        error = error or RuntimeError("the engine returned neither tokens nor an error")
        letter = task.spec.dead_letter(stage, error)
        self._writer.add_dead_letter(self._row_builder.dead_letter(letter))
        return ClipStatus("letter", task.clip_id)

    def add_clip(self, task: ClipTask, finishing: Future[FinishedClip]) -> ClipStatus:
        """Waits for a clip and adds it to the part.

        Raises:
            QualityError: It is out of the limits.
            SigningStoppedError: It can't be signed, nor can any after it.
        """
        with self._times.beside("encode_s"):
            clip = finishing.result()
        self._writer.add_clip(clip.row, clip.data, task.extras, clip.sidecar)
        return ClipStatus("clip", task.clip_id, clip.audio_s)

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
