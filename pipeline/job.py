"""One run of a job, wired in the order of the data. Read this file first.

    manifest row groups ─► read_rows ─► Prepare pool ─► replicas  ─► parts = the ledger
                           tasks        CPU             GPU          (statuses come back)

`run` takes the lease, scans (manifest minus ledger), records what can't be made, starts a runtime
only if something is left, and watches until every row is durable.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import Any, TextIO

import numpy as np
import pyarrow as pa

from manifests.reader import Manifest
from musicgen.checkpoints.describe import ModelInfo
from pipeline import ledger
from pipeline.audio.marks.signing import ClipSigner, open_signer
from pipeline.audio.scores.settings import needs_tunes
from pipeline.config import ConfigError, JobConfig
from pipeline.dataset.keep import refresh
from pipeline.ledger import DoneSet, attempts
from pipeline.ledger.lease import Lease, LeaseLostError, OutputGoneError
from pipeline.ledger.merge import finish_compaction
from pipeline.ledger.part_index import NOTHING_STANDS
from pipeline.ledger.schema import RESERVED_COLUMNS
from pipeline.ledger.scores import takes_judged_by
from pipeline.planning.clips import DeadLetter
from pipeline.planning.estimate import Estimate, estimate
from pipeline.planning.expand import PlanSpec, Selection
from pipeline.planning.model_limits import inspect_model, limits_of
from pipeline.planning.pool import LocalPool
from pipeline.planning.scan import Plan, describe_plan, scan
from pipeline.planning.scorers import identify_scorers, judging_of
from pipeline.planning.survey import ScanStoppedError, ScanWatch, Survey, survey
from pipeline.prepare.actor import Prepare
from pipeline.prepare.messages import PrepareSettings
from pipeline.replica.actor import Replica
from pipeline.replica.messages import ReplicaSettings
from pipeline.run_record import RunRecord, RunSummary, count_clips_of_run, count_judged
from pipeline.runtime import open_runtime
from pipeline.runtime.drain import Drain
from pipeline.runtime.runtime import Work
from pipeline.runtime.watch import Watch
from pipeline.storage import Storage, StorageError, open_storage
from pipeline.telemetry.metrics import failure_samples
from pipeline.telemetry.progress import Tally

log = logging.getLogger(__name__)

LETTERS_PER_PART = 10_000


@dataclass(frozen=True)
class PlannedRun:
    """What a run would do.

    Attributes:
        plan: Counts of what stands and what is left, and the rows that would be refused.
        estimate: What it may take and cost, judged by the output's runs, or by assumptions.
    """

    plan: Plan
    estimate: Estimate

    @property
    def estimated_s(self) -> float | None:
        """Seconds that it may take; None for a model that was never measured."""
        return self.estimate.seconds


def run(
    config: JobConfig,
    *,
    retry: bool = False,
    say: Callable[[str], None] = log.info,
    progress: TextIO | None = None,
) -> RunSummary:
    """Makes what the manifest asks for and the output lacks, and writes the report.

    In the main thread SIGTERM and SIGINT drain the run: clips in the slots finish, and the same
    call goes on from there.

    Args:
        config: The job.
        retry: Make only what failed before, instead of all that is missing.
        say: Told in a sentence what is found and what happens.
        progress: Where progress is shown, e.g. `sys.stderr`; nowhere unless given.

    Raises:
        ConfigError: The settings, the output's address or the cluster can't be used.
        MarksError: Clips can't be marked as the settings ask (`pipeline.audio.marks`).
        ManifestError: The manifest as a whole is unusable (`manifests.reader`).
        ModelNotFoundError, CheckpointError: So is the model (`musicgen.checkpoints`).
        SchemaError: The manifest's columns don't fit into the output (`pipeline.ledger`).
        LeaseHeldError, LeaseLostError: Another run writes, or has taken over
            (`pipeline.ledger.lease`).
        StorageError, StalledError, ReplicaFailedError, NoPlaceError: The job as a whole can't go
            on; whatever is committed stays, and the same call goes on from there.
        KeyboardInterrupt: A second signal came.
    """
    manifest = open_manifest(config)
    info = inspect_model(config)
    signer = _check_marks(config, say)
    summary = _run(config, manifest, info, signer, retry=retry, say=say, progress=progress)
    storage = open_storage(config.run.output, config.run.storage_options)
    changed = summary.plan.pending or summary.plan.letters
    if not summary.drained and (changed or not storage.size("report.html")):
        _write_report(storage, config.run.report_sample)
    return summary


def _write_report(storage: Storage, sample: int) -> None:
    """What can't be written is warned of: the clips stand, which the exit code tells."""
    from pipeline.report import build_report  # takes time, so after the input is checked

    try:
        storage.put("report.html", build_report(storage, sample=sample).encode())
    except (OSError, pa.ArrowException) as error:  # StorageError is an OSError
        log.warning("report.html is not written, `musicgen-batch report` writes it: %s", error)


def _refresh(lease: Lease, config: JobConfig, say: Callable[[str], None]) -> None:
    """Keeps the dataset's card current, while nobody else writes. What can't be written is warned
    of: the clips stand, and the next run or `musicgen-batch card` writes it."""
    try:
        refresh(lease, say, metadata_clips=config.parts.metadata_clips)
    except (OSError, pa.ArrowException, LeaseLostError) as error:  # StorageError is an OSError
        log.warning("README.md is not current, `musicgen-batch card` writes it: %s", error)


def plan(config: JobConfig) -> PlannedRun:
    """Counts what a run would do, how long it may take and what it costs; loads no model, writes
    nothing. The output need not exist.

    Raises:
        ConfigError, ManifestError, ModelNotFoundError, StorageError: As in `run`.
    """
    manifest = open_manifest(config)
    info = inspect_model(config)
    spec = _spec(config, manifest, info)
    storage = open_storage(config.run.output, config.run.storage_options)
    with LocalPool() as pool:
        if any(storage.exists(folder) for folder in ("clips", "failed", "scores")):
            found = survey(storage, spec, pool).plan
        else:
            found = scan(spec, Selection(NOTHING_STANDS.known), pool)
    runs = ledger.read_runs(storage)
    audio_s = found.pending_audio_s
    return PlannedRun(found, estimate(config, info, found.pending, audio_s, storage, runs))


def open_manifest(config: JobConfig) -> Manifest:
    """The job's manifest, whose extra columns must not be columns of the output."""
    return Manifest.open(
        config.run.manifest,
        storage_options=config.run.storage_options,
        extra_columns=config.run.extra_columns,
        reserved=RESERVED_COLUMNS,
    )


def _check_marks(config: JobConfig, say: Callable[[str], None]) -> ClipSigner | None:
    """What signs the clips of this job, if anything does; what is wrong with it is told here, once,
    and not by every row."""
    config.marks.check_packages()
    signer = open_signer(config.marks)
    if signer is not None:
        say(f"clips are signed (C2PA) with the certificate {signer.certificate.text}")
    return signer


def _spec(config: JobConfig, manifest: Manifest, info: ModelInfo) -> PlanSpec:
    limits = limits_of(info, config.references.separation, config.marks)
    options = config.run.storage_options
    judging = judging_of(config)
    return PlanSpec(manifest, config.generation, limits, options, config.references, judging)


def _run(
    config: JobConfig,
    manifest: Manifest,
    info: ModelInfo,
    signer: ClipSigner | None,
    *,
    retry: bool,
    say: Callable[[str], None],
    progress: TextIO | None,
) -> RunSummary:
    """The run without its report."""
    scorers = identify_scorers(config)
    runtime = open_runtime(config)  # imports Ray, which would make the lease's heartbeat late
    with _lease(config, say) as lease, Drain(config).listening() as drain:
        storage = lease.storage
        lease.start_heartbeat()
        finish_compaction(storage, lease)
        schema = ledger.check_schema(storage, manifest.extra_schema, config.parts.audio, say)
        run_id = config.run.run_id or ledger.new_run_id()
        spec = _spec(config, manifest, info)
        watch = _watch(config, manifest, lease, drain, say, progress)
        try:
            with closing(watch), closing(runtime.pool(manifest.n_rows)) as pool:
                drain.listen()  # Ray, where it is joined for the scan, has taken the signals
                found = survey(storage, spec, pool, retry=retry, watch=watch, keep=True)
        except ScanStoppedError:
            found = Survey(NOTHING_STANDS, Plan(manifest.n_rows, is_whole=False))
        plan, failures = found.plan, found.standing.failures()
        tally = Tally(plan.pending, started=time.monotonic())
        summary = RunSummary(run_id, storage.root, plan, tally, config.run.tolerate_dead_letters)
        record = RunRecord(lease, run_id, config, _public(info), plan)
        if not plan.is_whole:
            summary.drained = drain.reason
            record.write("drained", tally)
            return summary
        say(describe_plan(plan, retry))
        _write_letters(lease, plan.letters, run_id, failures)
        if not plan.pending and not plan.letters:
            _refresh(lease, config, say)
            return summary  # nothing happened: no record, no runtime
        attempts.forget_attempts(storage, run_id)  # of an earlier run that had this name
        record.write("running", tally)
        with _recorded(record, tally, drain):
            if plan.pending and not drain.is_due():
                work = Work(
                    plan.row_groups,
                    PrepareSettings(
                        spec, info, plan.repeats, retry, needs_tunes(config.quality.scorers)
                    ),
                    ReplicaSettings(
                        *(config, info, run_id, lease.generation, lease.token, schema, failures),
                        scorers=scorers,
                        c2pa_certificate=signer.certificate.fingerprint if signer else None,
                    ),
                    _known_after(found.standing.known, retry, plan.letters),
                    Replica,
                    Prepare,
                    failure_samples(Counter((it.stage, it.error_class) for it in plan.letters)),
                )
                gpus = runtime.start(say)
                drain.listen()  # Ray has taken the signals
                drain.replicas_start(gpus)
                Watch(config, lease, record, summary, drain, say, progress).run(runtime, work)
        if drain.is_due() or tally.is_replayed:
            _settle_accounts(config, lease, summary, drain)
        record.write("drained" if summary.drained else "done", tally)
        if not drain.is_by_signal:
            _refresh(lease, config, say)
        _forget_attempts(storage, run_id)  # last: by now Ray has ended the actors
        return summary


@contextmanager
def _recorded(record: RunRecord, tally: Tally, drain: Drain) -> Iterator[None]:
    """Around the work: what ends it stands in the record of the run."""
    try:
        yield
    except KeyboardInterrupt:
        record.write("interrupted", tally)
        raise
    except SystemExit:  # what Ray makes of a SIGTERM while it starts
        drain.reason = "SIGTERM"
    except OutputGoneError:
        raise  # a record would be all that is left there
    except BaseException:
        record.write("failed", tally)
        raise


def _forget_attempts(storage: Storage, run_id: str) -> None:
    try:
        attempts.forget_attempts(storage, run_id)
    except StorageError as error:
        log.warning("attempt records stay behind, `gc` removes them: %s", error)


def _lease(config: JobConfig, say: Callable[[str], None]) -> Lease:
    """The first write to the output: what fails here is the output's address or credentials."""
    try:
        storage = open_storage(config.run.output, config.run.storage_options)
        return Lease.acquire(
            storage, ttl_s=config.run.lease_ttl_s, wait=config.run.wait, on_message=say, owner="run"
        )
    except StorageError as error:
        raise ConfigError(f"--output {config.run.output} can't be used: {error}") from error


def _public(info: ModelInfo) -> dict[str, Any]:
    """The model as the run's record names it; the local folder stays private."""
    return {
        "name": info.name,
        "kind": info.kind,
        "adapters": [adapter.label for adapter in info.adapters],
        "weights_hash": info.weights_hash,
        "revision": info.revision,
        "weights_licence": info.weights_licence,
        "sample_rate_hz": info.sample_rate_hz,
        "channels": info.channels,
    }


def _write_letters(
    lease: Lease, letters: list[DeadLetter], run_id: str, failures: dict[str, int]
) -> None:
    """What the scan refused goes to `failed/` at once; no model is needed for that."""
    writer = ledger.new_replica_id()
    for seq, start in enumerate(range(0, len(letters), LETTERS_PER_PART)):
        rows = [
            letter.as_row(run_id, 1 + failures.get(letter.row_key, 0)).as_columns()
            for letter in letters[start : start + LETTERS_PER_PART]
        ]
        table = pa.Table.from_pylist(rows, schema=ledger.FAILED_SCHEMA)
        name = (run_id, writer, seq, lease.generation)
        ledger.write_dead_letter_part(lease.storage, table, *name)


def _watch(
    config: JobConfig,
    manifest: Manifest,
    lease: Lease,
    drain: Drain,
    say: Callable[[str], None],
    progress: TextIO | None,
) -> ScanWatch:
    """What follows the scan, and ends it where the run is to drain or has lost its lease."""

    def check() -> None:
        if drain.is_due():
            raise ScanStoppedError
        lease.check()

    return ScanWatch(manifest.n_rows, check, say, progress, config.run.interval_s)


def _known_after(known: DoneSet, retry: bool, letters: list[DeadLetter]) -> DoneSet:
    """What the prepare pool must know: what the scan has just refused is settled for this run."""
    refused = ledger.pack_ids([letter.row_key for letter in letters])
    settle = np.setdiff1d if retry else np.union1d
    return replace(known, letters=settle(known.letters, refused))


def _settle_accounts(config: JobConfig, lease: Lease, summary: RunSummary, drain: Drain) -> None:
    """Counts what is committed where not every status reached the driver: the run drains, or Ray
    sent a task again."""
    tally, refused = summary.tally, {letter.clip_id for letter in summary.plan.letters}
    ours = (lease.storage, summary.run_id, lease.generation)
    tally.clips, tally.audio_s = count_clips_of_run(*ours)
    letters = ledger.dead_letters_of_run(*ours) - refused
    if config.quality.keep_best is not None:
        kept, aside = takes_judged_by(*ours[:2])
        tally.clips = count_judged(*ours[:2], kept, lease.generation)
        tally.aside = len(aside)
        letters -= kept | aside  # these take an earlier one back
    tally.failed = len(letters)
    if tally.ended < summary.plan.pending:
        summary.drained = drain.reason
