"""The job, wired in the order of the data. Read this file first.

    manifest units ─► read_rows ─► Prepare pool ─► Replica pool ─► parts = the ledger
                      Ray tasks    CPU actors      GPU actors      (statuses come back)

`run` takes the lease, scans (manifest minus ledger), records what can't be made, starts Ray only if
something is left, and watches until every row is durable.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import Empty, Queue
from typing import Any

import numpy as np
import pyarrow as pa

from manifests.reader import Manifest
from musicgen.checkpoints.describe import ModelInfo
from pipeline import ledger
from pipeline.config import ConfigError, JobConfig
from pipeline.ledger import DoneSet, attempts, maintain
from pipeline.ledger.lease import Lease, LeaseLostError
from pipeline.planning.clips import DeadLetter
from pipeline.planning.expand import PlanSpec, Selection
from pipeline.planning.model_limits import limits_of
from pipeline.planning.scan import Plan, describe_plan, scan
from pipeline.prepare.messages import PrepareSettings
from pipeline.replica.actor import Replica
from pipeline.replica.messages import ClipStatus, ReplicaSettings, read_statuses
from pipeline.run_record import RunRecord, count_clips
from pipeline.runtime.drain import Drain, Leaving
from pipeline.runtime.ray_actor_id import ray_actor_identity
from pipeline.runtime.ray_cluster import check_resources, gpus_per_replica, start_ray
from pipeline.runtime.ray_dataset import build_dataset
from pipeline.storage import Storage, StorageError, open_storage
from pipeline.telemetry.progress import ProgressView, Tally

log = logging.getLogger(__name__)

LETTERS_PER_PART = 10_000
POLL_S = 0.1


class ReplicaFailedError(RuntimeError):
    """A replica can't go on, and so neither can the job."""


class StalledError(RuntimeError):
    """No row became durable for `stall_timeout_s`."""


@dataclass
class RunSummary:
    """How a run ended."""

    run_id: str
    plan: Plan
    tally: Tally
    started_at: float = field(default_factory=time.time)  # seconds since 1970
    replicas: set[str] = field(default_factory=set)
    drained: str | None = None  # why rows were left, if they were

    @property
    def startup_s(self) -> float:
        """Until the first clip entered an engine; 0 if none did."""
        first = self.tally.times.first_admission
        return 0.0 if first is None else first - self.started_at

    @property
    def letters_standing(self) -> int:
        """Rows of this manifest that stand in `failed/`: then the exit code is 3."""
        outcomes = self.plan.outcomes
        return outcomes["standing"] + outcomes["refused"] + self.tally.failed


def run(
    config: JobConfig,
    manifest: Manifest,
    info: ModelInfo,
    *,
    retry: bool = False,
    say: Callable[[str], None] = log.info,
) -> RunSummary:
    """Makes what the manifest asks for and the output lacks; with `retry`, what failed before.

    Raises:
        LeaseHeldError, LeaseLostError: Another run writes, or has taken over.
        StorageError, SchemaError, ConfigError, StalledError: The job as a whole can't go on;
            whatever is committed stays.
    """
    with _lease(config, say) as lease, Drain(config).listening() as drain:
        storage = lease.storage
        lease.start_heartbeat()
        maintain.finish_compaction(storage, lease)
        schema = ledger.check_schema(storage, manifest.extra_schema, config.parts.audio)
        run_id = config.run.run_id or ledger.new_run_id()
        spec = PlanSpec(
            manifest,
            config.generation,
            limits_of(info, config.references.separation),
            config.run.storage_options,
        )
        selection = Selection(ledger.committed_ids(storage), retry)
        plan = scan(spec, selection)
        say(describe_plan(plan, retry))
        failures = _failures(storage)
        _write_letters(storage, plan.letters, run_id, failures)
        tally = Tally(plan.pending, started=time.monotonic())
        summary = RunSummary(run_id, plan, tally)
        record = RunRecord(storage, run_id, config, _public(info), plan)
        if not plan.pending and not plan.letters:
            return summary  # nothing happened: no record, no Ray
        record.write("running", tally)
        try:
            if plan.pending and not drain.is_due():
                known = _known_after(selection, plan.letters)
                prepare = PrepareSettings(spec, info, plan.repeats, retry)
                replica = ReplicaSettings(
                    config,
                    info,
                    run_id,
                    lease.generation,
                    lease.token,
                    schema,
                    failures,
                    ray_actor_identity,
                )
                start_ray(config)
                drain.listen()
                check_resources(config, say)
                if config.run.max_gpu_hours is not None:
                    drain.replicas_start(gpus_per_replica(config) * config.cluster.replicas)
                dataset = build_dataset(config, plan, prepare, replica, known, Replica)
                _watch(dataset, config, lease, record, summary, drain, say)
        except KeyboardInterrupt:
            record.write("interrupted", tally)
            raise
        except SystemExit:  # what Ray makes of a SIGTERM while it starts
            drain.reason = "SIGTERM"
        except BaseException:
            record.write("failed", tally)
            raise
        if drain.is_due():
            _settle_accounts(storage, summary, drain)
        record.write("drained" if summary.drained else "done", tally)
        attempts.forget_attempts(storage, run_id)
        return summary


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
        "weights_hash": info.weights_hash,
        "revision": info.revision,
        "weights_licence": info.weights_licence,
        "sample_rate_hz": info.sample_rate_hz,
        "channels": info.channels,
    }


def _failures(storage: Storage) -> dict[str, int]:
    """How often rows have failed in earlier runs, by row key."""
    letters = ledger.read_dead_letters(storage)
    keys, counts = letters["row_key"].to_pylist(), letters["attempts"].to_pylist()
    return dict(zip(keys, counts, strict=True))


def _write_letters(
    storage: Storage, letters: list[DeadLetter], run_id: str, failures: dict[str, int]
) -> None:
    """What the scan refused goes to `failed/` at once; no model is needed for that."""
    writer = ledger.new_replica_id()
    for seq, start in enumerate(range(0, len(letters), LETTERS_PER_PART)):
        rows = [
            letter.as_row(run_id, 1 + failures.get(letter.row_key, 0)).as_columns()
            for letter in letters[start : start + LETTERS_PER_PART]
        ]
        table = pa.Table.from_pylist(rows, schema=ledger.FAILED_SCHEMA)
        ledger.write_dead_letter_part(storage, table, run_id, writer, seq)


def _known_after(selection: Selection, letters: list[DeadLetter]) -> DoneSet:
    """What the prepare pool must know: what the scan has just refused is settled for this run."""
    known = selection.known
    refused = ledger.pack_ids([letter.row_key for letter in letters])
    if selection.retry:
        return DoneSet(known.clips, np.setdiff1d(known.letters, refused))
    return DoneSet(known.clips, np.union1d(known.letters, refused))


def _watch(
    dataset: Any,
    config: JobConfig,
    lease: Lease,
    record: RunRecord,
    summary: RunSummary,
    drain: Drain,
    say: Callable[[str], None],
) -> None:
    """Drives the dataset from a thread and keeps books until it ends, stalls, is drained, or the
    lease goes."""
    statuses: Queue[pa.Table | BaseException | None] = Queue()
    stop = threading.Event()
    threading.Thread(target=_drive, args=(dataset, statuses, stop), daemon=True).start()
    tally = summary.tally
    view = ProgressView(tally, config.run.interval_s)
    last_news = next_record = time.monotonic()
    leaving: Leaving | None = None
    try:
        while True:
            lease.check()
            now = time.monotonic()
            view.update()
            if leaving is None and drain.is_due():
                say(drain.announcement())
                lease.ask_to_drain()
                leaving = Leaving(lease.storage, summary.run_id, now + config.run.drain_s)
            if leaving is not None and leaving.is_over(now):
                return
            if now >= next_record:
                record.write("running", tally)
                next_record = now + config.run.interval_s
            if now - last_news > config.run.stall_timeout_s:
                raise StalledError(
                    f"no row became durable for {config.run.stall_timeout_s:g} s; see the actors' "
                    "logs, or raise stall_timeout_s; the same command resumes"
                )
            try:
                news = statuses.get(timeout=POLL_S)
            except Empty:
                continue
            if news is None:
                return
            if isinstance(news, BaseException):
                raise news
            last_news = now
            _count(news, summary)
    finally:
        stop.set()
        view.close()


def _settle_accounts(storage: Storage, summary: RunSummary, drain: Drain) -> None:
    """Counts what a drained run has committed: not every status reached the driver."""
    tally, refused = summary.tally, {letter.clip_id for letter in summary.plan.letters}
    tally.clips, tally.audio_s = count_clips(storage, summary.run_id)
    tally.failed = len(ledger.dead_letters_of_run(storage, summary.run_id) - refused)
    if tally.clips + tally.failed < summary.plan.pending:
        summary.drained = drain.reason


def _drive(dataset: Any, statuses: Queue[Any], stop: threading.Event) -> None:
    try:
        for batch in dataset.iter_batches(
            batch_size=None, batch_format="pyarrow", prefetch_batches=0
        ):
            statuses.put(batch)
            if stop.is_set():  # leaving the loop shuts the execution down
                return
        statuses.put(None)
    except BaseException as error:  # handed to the watching thread, which raises it
        statuses.put(error)


def _count(batch: pa.Table, summary: RunSummary) -> None:
    tally = summary.tally
    for status, replica, times in read_statuses(batch):
        if status.status == "fatal":
            raise _fatal(status)
        tally.times.update(replica, times)
        tally.failed += status.status == "letter"
        tally.clips += status.status in ("clip", "known")
        tally.audio_s += status.audio_s or 0.0
        summary.replicas.add(replica)


def _fatal(status: ClipStatus) -> Exception:
    """What a replica reported, as an error of the driver."""
    known: dict[str, type[Exception]] = {
        "LeaseLostError": LeaseLostError,
        "StorageError": StorageError,
        "CheckpointError": ConfigError,
        "ModelNotFoundError": ConfigError,
    }
    kind = known.get(status.error_class or "", ReplicaFailedError)
    return kind(status.error or status.error_class)
