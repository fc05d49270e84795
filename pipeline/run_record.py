"""What a run says about itself: the record `runs/<run_id>.json`, which `status` and reports read,
and the summary that `run` returns."""

import logging
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import ledger
from pipeline.config import EXIT_DEAD_LETTERS, EXIT_DRAINED, JobConfig
from pipeline.ledger import attempts
from pipeline.ledger.attempts import QUARANTINE
from pipeline.ledger.lease import Lease, OutputGoneError, output_gone
from pipeline.ledger.names import run_path
from pipeline.planning.scan import Plan
from pipeline.storage import Storage, StorageError, shown_options, shown_uri
from pipeline.telemetry.progress import Tally
from pipeline.telemetry.timing import RunTimes
from pipeline.telemetry.words import counted

log = logging.getLogger(__name__)

State = Literal["running", "done", "drained", "failed", "interrupted"]
_PACKAGES = ("musicgen-batch", "ray", "torch", "torchaudio", "transformers", "pyarrow")


@dataclass
class RunSummary:
    """How a run ended.

    Attributes:
        run_id: Its name; the record of the run is `runs/<run_id>.json` below `output`.
        output: Root of the dataset.
        plan: What stood and what was left to do when it began.
        tally: What it has made, while it runs and at its end.
        tolerates_dead_letters: Whether dead letters leave the exit code at 0.
        started_at: When its work began, seconds since 1970.
        replicas: Names of the replicas that have committed something.
        drained: Why rows were left, if they were: a signal, or the limit that was reached.
    """

    run_id: str
    output: str
    plan: Plan
    tally: Tally
    tolerates_dead_letters: bool = False
    started_at: float = field(default_factory=time.time)
    replicas: set[str] = field(default_factory=set)
    drained: str | None = None

    @property
    def clips(self) -> int:
        """Clips that this run has committed."""
        return self.tally.clips

    @property
    def failed(self) -> int:
        """Rows and takes that became dead letters while they were made."""
        return self.tally.failed

    @property
    def audio_s(self) -> float:
        """Seconds of audio that this run has committed."""
        return self.tally.audio_s

    @property
    def left(self) -> int:
        """Clips that a drained run has not made; the same command goes on from there."""
        return self.plan.pending - self.tally.ended

    @property
    def startup_s(self) -> float:
        """Until the first clip entered an engine; 0 if none did."""
        first = self.tally.times.first_admission
        return 0.0 if first is None else first - self.started_at

    @property
    def dead_letters_standing(self) -> int:
        """Rows and takes of this manifest that stand in `failed/`, from this run or earlier ones:
        then the exit code is 3."""
        outcomes = self.plan.outcomes
        return outcomes["standing"] + outcomes["refused"] + self.failed

    def facts(self) -> dict[str, Any]:
        """For programs, as `run --json` prints them; `done`, `failed` and `audio_seconds` are those
        of the run's record."""
        return {
            "run_id": self.run_id,
            "output": self.output,
            "state": "drained" if self.drained else "done",
            "drained": self.drained,
            "exit_code": self.exit_code,
            "rows": self.plan.n_rows,
            "pending": self.plan.pending,
            "done": self.clips,
            "failed": self.failed,
            "set_aside": self.tally.aside,
            "left": self.left,
            "done_before": self.plan.outcomes["done"],
            "dead_letters_standing": self.dead_letters_standing,
            "audio_seconds": self.audio_s,
            "wall_s": self.tally.wall_s,
            "startup_s": self.startup_s,
            "clips_uri": self.clips_uri,
            "failed_uri": self.failed_uri,
            "report_uri": self.report_uri,
        }

    @property
    def exit_code(self) -> int:
        """What the command exits with: 0 all done, 3 dead letters stand, 5 drained."""
        if self.drained:
            return EXIT_DRAINED
        stands = self.dead_letters_standing and not self.tolerates_dead_letters
        return EXIT_DEAD_LETTERS if stands else 0

    @property
    def clips_uri(self) -> str:
        """The folder of Parquet parts with a row per clip."""
        return f"{self.output}/clips"

    @property
    def failed_uri(self) -> str:
        """The folder of Parquet parts with a row per dead letter."""
        return f"{self.output}/failed"

    @property
    def report_uri(self) -> str:
        """The page to look at and listen to; a drained run does not write it."""
        return f"{self.output}/report.html"


class RunRecord:
    """Writes the record; the parts stay the only truth about what is done."""

    def __init__(
        self,
        lease: Lease,
        run_id: str,
        config: JobConfig,
        model: dict[str, Any],
        plan: Plan,
    ) -> None:
        self._storage, self._run_id = lease.storage, run_id
        self._stands = False
        self._started, self._replicas = time.time(), config.cluster.replicas
        outcomes = plan.outcomes
        recorded = config.model_dump(mode="json")
        recorded["run"]["manifest"] = shown_uri(config.run.manifest)
        recorded["run"]["storage_options"] = shown_options(config.run.storage_options)
        self._fixed = {
            "run_id": run_id,
            "generation": lease.generation,
            "started_at": _now(),
            "total": plan.total,
            "pending": plan.pending,
            "pending_audio_s": plan.pending_audio_s,
            "done_before": outcomes["done"],
            "skipped_failed": outcomes["standing"],
            "invalid": outcomes["refused"],
            "config": recorded,
            "model": model,
            "versions": {"python": platform.python_version()}
            | {name: version(name) for name in _PACKAGES},
            "replicas": config.cluster.replicas,
            "slots": config.engine.slots,
        }

    def write(self, state: State, tally: Tally) -> bool:
        """Publishes the record in place of the previous one. A store that refuses it, after all
        tries, is warned of: the parts say what is done.

        Returns:
            Whether it stands now.

        Raises:
            OutputGoneError: The output was deleted since the record was last written.
        """
        try:
            self._check_there()
            ledger.write_run(
                self._storage, self._run_id, self._fixed | self._changing(state, tally)
            )
            self._stands = True
        except OutputGoneError:
            raise
        except StorageError as error:
            log.warning("the record of the run could not be written: %s", error)
            self._stands = False
        return self._stands

    def _check_there(self) -> None:
        if self._stands and self._storage.size(run_path(self._run_id)) is None:
            raise output_gone(self._storage)

    def _changing(self, state: State, tally: Tally) -> dict[str, Any]:
        now = _now()
        return {
            "state": state,
            "updated_at": now,
            "finished_at": None if state == "running" else now,
            "done": tally.clips,
            "failed": tally.failed,
            "set_aside": tally.aside,
            "audio_seconds": tally.audio_s,
            "wall_s": tally.wall_s,
            "timing": self._timing(tally.times),
        }

    def _timing(self, times: RunTimes) -> dict[str, float | None]:
        """Where the time went; see `pipeline.telemetry.timing` for what each figure means."""
        first = times.first_admission
        return {
            "startup_s": None if first is None else first - self._started,
            "window_s": times.window_s,
            "slot_occupancy": times.slot_occupancy,
            "overhead": times.overhead(self._replicas),
            "overhead_cpu": times.overhead(self._replicas, cpu=True),
            **times.seconds(),
        }


@dataclass(frozen=True)
class Status:
    """What an output holds, and the record of its last run (None before the first)."""

    clips: int
    audio_s: float
    dead_letters: int
    quarantined: int
    """of those: rows that ended the process that made them"""
    suspects: int
    """rows that a replica had in hand when it died, which the running run tries by themselves"""
    parts: int
    last_run: dict[str, Any] | None

    def text(self) -> str:
        """For people."""
        lines = [
            f"{counted(self.clips, 'clip')}, {self.audio_s:.1f} s of audio in "
            f"{counted(self.parts, 'part')}; {counted(self.dead_letters, 'dead letter')} "
            f"{'stands' if self.dead_letters == 1 else 'stand'}, {self.quarantined} of them in "
            "quarantine"
        ]
        if self.suspects:
            rows = counted(self.suspects, "row")
            lines.append(f"{rows} in hand when a replica died; such rows run apart")
        run = self.last_run
        if run is not None:
            aside = run.get("set_aside", 0)
            left = run["pending"] - run["done"] - run["failed"] - aside
            lines.append(
                f"run {run['run_id']}: {run['state']}, started {run['started_at']}, last heard of "
                f"{run['updated_at']}; {counted(run['done'], 'clip')} made, "
                f"{run['failed']} failed, {f'{aside} set aside, ' if aside else ''}{left} left, "
                f"{run['audio_seconds']:.1f} s of audio in "
                f"{run['wall_s']:.0f} s"
            )
            lines += _busy(run.get("timing") or {})
        return "\n".join(lines)


def _busy(timing: Mapping[str, float | None]) -> list[str]:
    """How well replicas were used, as soon as something is committed."""
    occupancy, overhead = timing.get("slot_occupancy"), timing.get("overhead")
    if occupancy is None or overhead is None:
        return []
    return [
        f"slots {occupancy:.1%} full while rows waited; decode loops ran {1 - overhead:.1%} of the "
        f"{timing['window_s']:.0f} s from the first admission to the last commit"
    ]


def read_status(storage: Storage) -> Status:
    """Counts from the parts, which are the truth, and the latest run's own words."""
    parts = ledger.list_parts(storage, "clips")
    n_clips, audio_s = count_clips(storage)
    letters = ledger.read_dead_letters(storage)
    runs = ledger.read_runs(storage)
    trials: set[str] = set()
    if runs and runs[-1]["state"] == "running":
        found = attempts.read_attempts(storage, runs[-1]["run_id"])
        trials = {clip for attempt in found.values() for clip in attempt.suspects}
    return Status(
        clips=n_clips,
        audio_s=audio_s,
        dead_letters=letters.num_rows,
        quarantined=letters["stage"].to_pylist().count(QUARANTINE),
        suspects=len(trials),
        parts=len(parts),
        last_run=runs[-1] if runs else None,
    )


def count_clips(storage: Storage) -> tuple[int, float]:
    """Committed clips, and their seconds of audio."""
    return _counted(ledger.read_clips(storage, ["n_samples", "sample_rate_hz"]))


def count_clips_of_run(storage: Storage, run_id: str, generation: int) -> tuple[int, float]:
    """The clips that one run has committed, and their seconds of audio.

    Args:
        storage: Root of the output.
        run_id: The run.
        generation: Of the lease that it holds; an earlier run may have had the same name.
    """
    return _counted(ledger.clips_committed_by(storage, run_id, generation))


def count_judged(storage: Storage, run_id: str, kept: frozenset[str], generation: int) -> int:
    """The clips of a run that judges takes, with those that it would have made if they had not
    stood already.

    Args:
        storage, run_id, generation: As in `count_clips_of_run`.
        kept: Ids of the clips that it has judged to be kept.
    """
    n_clips, _ = count_clips_of_run(storage, run_id, generation)
    ours = set(ledger.read_clips(storage, ["clip_id"], run_id)["clip_id"].to_pylist())
    others = kept - ours
    if others:
        standing = set(ledger.read_clips(storage, ["clip_id"])["clip_id"].to_pylist())
        n_clips += len(others & standing)
    return n_clips


def _counted(clips: pa.Table) -> tuple[int, float]:
    seconds = pc.divide(clips["n_samples"].cast(pa.float64()), clips["sample_rate_hz"])
    return clips.num_rows, pc.sum(seconds).as_py() or 0.0


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
