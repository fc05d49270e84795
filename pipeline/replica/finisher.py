"""The end of a clip's way: codes become audio, audio becomes a row of the part or a dead letter."""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from manifests.identity import retake_seed
from musicgen.model import MusicGen
from pipeline.ledger.writer import PartWriter
from pipeline.prepare.actor import extras_of
from pipeline.replica.clip_rows import ClipRowBuilder
from pipeline.replica.messages import ReplicaSettings
from pipeline.replica.model import is_broken_cuda
from pipeline.replica.postprocess import FinishedClip, Postprocessor, QualityError
from pipeline.replica.task import ClipTask
from pipeline.telemetry.logfmt import line
from pipeline.telemetry.timing import ReplicaTimes

log = logging.getLogger(__name__)

Status = dict[str, Any]


class Finisher:
    """Belongs to the thread that owns the writer; measuring and encoding have threads of their own.

    Args:
        settings: The job and the model.
        model: Decodes.
        recorder: Writes rows and letters.
        writer: Gathers them.
        times: Counts what each step takes.
        take_again: Given a clip that quality control refused, with its next seed in its spec.
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
        self._postprocessor = Postprocessor(config, row_builder)
        self._pool = ThreadPoolExecutor(config.encode_threads, "finishing")

    def statuses(self, batch: Sequence[tuple[ClipTask, Exception | None]]) -> list[Status | None]:
        """Puts clips, or the dead letters that they became, into the part; the status row of each,
        or None where a clip is made again. Clips are finished side by side."""
        finishing = [self._start(task, error) for task, error in batch]
        return [
            self._conclude(task, error, clip)
            for (task, error), clip in zip(batch, finishing, strict=True)
        ]

    def close(self) -> None:
        """Finishes nothing more."""
        self._pool.shutdown(wait=False)

    def _start(self, task: ClipTask, error: Exception | None) -> Future[FinishedClip] | None:
        """Decodes in this thread, and has the clip finished in another."""
        if error is not None or task.codes is None:
            return None
        try:
            with self._times.beside("decode_s"), self._model.beside_the_engine():
                wav = self._model.decode(task.codes).numpy()  # [C, N]
        except (ValueError, RuntimeError, MemoryError) as failed:
            broken: Future[FinishedClip] = Future()
            broken.set_exception(failed)
            return broken
        rate_hz = self._settings.info.sample_rate_hz
        return self._pool.submit(self._postprocessor.finish, task.spec, wav, rate_hz, task.retake)

    def _conclude(
        self, task: ClipTask, error: Exception | None, finishing: Future[FinishedClip] | None
    ) -> Status | None:
        if task.prepared["kind"] == "letter":
            self._writer.add_dead_letter(self._row_builder.passed_on(task.spec))
            return {"status": "letter", "clip_id": task.clip_id}
        stage = task.spec.pop("stage", "generate")
        if finishing is not None:
            try:
                return self.add_clip(task, finishing)
            except QualityError as failed:
                if self._postprocessor.may_retake(task.spec, task.retake):
                    self._reseed(task, failed)
                    self._take_again(task)
                    return None
                stage, error = "qc", self._postprocessor.verdict(failed, task.spec, task.retake)
            except (ValueError, RuntimeError, MemoryError) as invalid:
                if is_broken_cuda(invalid):
                    raise
                stage, error = "encode", invalid
        error = error or RuntimeError("the engine returned neither tokens nor an error")
        self._writer.add_dead_letter(self._row_builder.dead_letter(task.spec, stage, error))
        return {"status": "letter", "clip_id": task.clip_id}

    def add_clip(self, task: ClipTask, finishing: Future[FinishedClip]) -> Status:
        """Waits for a clip and adds it to the part.

        Raises:
            QualityError: It is out of the limits.
        """
        with self._times.beside("encode_s"):
            clip = finishing.result()
        self._writer.add_clip(clip.row, clip.data, extras_of(task.prepared))
        return {"status": "clip", "clip_id": task.clip_id, "audio_s": clip.audio_s}

    def _reseed(self, task: ClipTask, failed: QualityError) -> None:
        """The next seed for a clip. It is the same clip to everybody else: its id hashes the seed
        of the take."""
        spec = task.spec
        take_seed = spec.setdefault("take_seed", spec["seed_used"])
        task.retake += 1
        spec["seed_used"] = retake_seed(take_seed, task.retake)
        task.codes = None
        ids = {"clip_id": task.clip_id, "id": spec["id"], "take": spec["take"]}
        told = {"retake": task.retake, "error": str(failed)}
        row_builder = self._row_builder
        log.info(line("retake", run=row_builder.run_id, replica=row_builder.replica, **ids, **told))
