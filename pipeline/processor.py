"""A stage of a Ray Data pipeline: rows with prompts in, rows with audio out.

    Dataset ─► preprocess ─► PromptPreparer ─► ClipMaker ─► postprocess ─► Dataset
                             the prepare pool  replicas

For pipelines that go on with the audio; a dataset on storage that can be resumed is made by `run`.
The stage has no ledger and no output folder, and clips are those of `run`, to the byte: each
replica is the job's own, on an output that lies in the memory of its process and is emptied as
calls return.
"""

import json
import pickle
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from manifests.reader import Manifest, RowGroup
from manifests.schema import COLUMNS, check_columns
from musicgen.checkpoints.describe import ModelInfo
from pipeline import ledger
from pipeline.audio.marks.signing import open_signer
from pipeline.audio.scores.checkpoints import identify
from pipeline.audio.scores.protocol import ScorerIdentity
from pipeline.audio.scores.settings import needs_tunes
from pipeline.config import ConfigError, JobConfig
from pipeline.ledger.id_set import NO_IDS, Ids
from pipeline.ledger.lease import Lease
from pipeline.ledger.parts import read_part
from pipeline.ledger.schema import AUDIO_TYPE, CLIP_FIELDS, clip_schema
from pipeline.planning.clips import DeadLetter
from pipeline.planning.expand import PlanSpec
from pipeline.planning.model_limits import inspect_model, limits_of
from pipeline.prepare.actor import Prepare
from pipeline.prepare.messages import PrepareSettings
from pipeline.prepare.prepared import (
    EXTRA,
    PREPARED_SCHEMA,
    PreparedClip,
    from_table,
    without_empty_rows,
)
from pipeline.replica.actor import Replica
from pipeline.replica.messages import ReplicaSettings, read_statuses
from pipeline.storage import open_storage

if TYPE_CHECKING:
    from ray.data import Dataset

Row = dict[str, Any]

# Columns of `clips/` that speak of runs, parts and where the audio lies in an output.
_OF_AN_OUTPUT = (
    *("row_key", "run_id", "replica", "attempts", "created_at", "audio_path", "audio_member"),
)
RESULT_SCHEMA = pa.schema(
    [
        *(field.with_nullable(True) for field in CLIP_FIELDS if field.name not in _OF_AN_OUTPUT),
        ("audio", AUDIO_TYPE),  # the encoded file, as Hugging Face's Audio feature holds it
        ("error", pa.string()),  # why the row was not made; null where it was
        ("error_class", pa.string()),
    ]
)
_POSITION = "position"  # of a row in its block


class Processor:
    """Adds the stage to datasets; `build_processor` makes it.

    Args:
        config: Settings of the model, the generation, the audio and the replicas.
        preprocess: Makes a row with manifest columns of a row of the dataset.
        postprocess: Makes a row of the result.
    """

    def __init__(
        self,
        config: JobConfig,
        preprocess: Callable[[Row], Row] | None = None,
        postprocess: Callable[[Row], Row] | None = None,
    ) -> None:
        if config.quality.keep_best is not None:
            raise ConfigError(
                "keep_best has no place in a stage, which gives a row per take: leave it out, and "
                "choose by the score_... columns of the result"
            )
        self.config, self.info = config, inspect_model(config)
        self._scorers = tuple(identify(spec) for spec in config.quality.scorers)
        config.marks.check_packages()
        signer = open_signer(config.marks)
        self._fingerprint = signer.certificate.fingerprint if signer else None  # without the key
        self._preprocess, self._postprocess = preprocess, postprocess

    def __call__(self, dataset: "Dataset") -> "Dataset":
        """The dataset with the stage behind it; nothing runs before somebody asks for rows."""
        from pipeline.runtime.ray_dataset import cut, prepare_pool, replica_pool

        config = self.config
        if self._preprocess is not None:
            dataset = dataset.map(self._preprocess)
        prepared = dataset.map_batches(
            PromptPreparer,
            fn_constructor_args=(config, self.info, str(Path.cwd())),
            batch_size=config.cluster.prepare_block_rows,
            **prepare_pool(config),
        )
        made = cut(prepared, config.cluster.block_rows).map_batches(
            ClipMaker,
            fn_constructor_args=(config, self.info, self._scorers, self._fingerprint),
            batch_size=config.cluster.block_rows,
            **replica_pool(config),
        )
        return made if self._postprocess is None else made.map(self._postprocess)


def build_processor(
    config: JobConfig | Mapping[str, Any],
    *,
    preprocess: Callable[[Row], Row] | None = None,
    postprocess: Callable[[Row], Row] | None = None,
) -> Processor:
    """A stage that makes music in a Ray Data pipeline: `build_processor(config)(dataset)`.

    The dataset has the columns of a manifest (`prompt`, `id`, `duration_s`, `takes`, `seed`,
    `melody_uri`, ...) and any others, which are carried through. The result has a row per take, in
    no particular order: RESULT_SCHEMA, then the other columns. `audio` is a struct of `bytes`, the
    encoded file, and `path`, its name. A row that can't be made has `error` and `error_class` set
    and no audio; where only its id, take and prompt are known, the other columns are null.

    A row that kills its process is tried again by Ray as often as Ray is told to; a job made by
    `run` keeps such rows out.

    Args:
        config: A JobConfig, or settings under the names of their flags: `{"model": "tiny"}`.
            `manifest` and `output` are not used, and settings may leave them out.
        preprocess: Makes a row with manifest columns of a row of the dataset.
        postprocess: Makes a row of a row of the result.

    Raises:
        ConfigError, ModelNotFoundError, CheckpointError, MarksError: The settings, the model or
            the marks can't be used.
    """
    if not isinstance(config, JobConfig):
        from pipeline.config_file import load_config

        config = load_config(None, {"manifest": "-", "output": "-", **config})
    return Processor(config, preprocess, postprocess)


class PromptPreparer:
    """Ray actor: rows of the dataset become prepared rows, as the replicas of a job take them.

    Args:
        config: Generation defaults and references.
        info: The model.
        folder: What relative references count from.
    """

    def __init__(self, config: JobConfig, info: ModelInfo, folder: str) -> None:
        position = pa.schema([(_POSITION, pa.int64())])
        block = RowGroup(f"{folder}/block", "block", 0, 0, 1, "")  # rows are counted per block
        options = config.run.storage_options
        manifest = Manifest(folder, (block,), COLUMNS, position, (), options)
        limits = limits_of(info, config.references.separation, config.marks)
        spec = PlanSpec(manifest, config.generation, limits, options, config.references)
        self._prepare = Prepare(
            PrepareSettings(spec, info, {}, False, needs_tunes(config.quality.scorers)),
            _nothing_known,
        )
        self._reserved = (*CLIP_FIELDS.names, "audio", "error", "error_class")
        self._extra_columns = config.run.extra_columns

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        """Prepared rows, each with the other columns of its row."""
        faults = check_columns(table.column_names, self._extra_columns, self._reserved)
        if faults:
            raise ConfigError("the dataset's columns: " + "; ".join(faults))
        known = [name for name in table.column_names if name in COLUMNS]
        raws = [pickle.dumps(raw) for raw in table.select(known).to_pylist()]
        positions = pa.array(range(table.num_rows), pa.int64())
        rows = {
            "row": positions,
            "raw": pa.array(raws, pa.large_binary()),
            f"{EXTRA}{_POSITION}": positions,
        }
        others = table.drop_columns(known)
        for prepared in self._prepare(pa.table(rows)):
            sources = others.take(prepared[f"{EXTRA}{_POSITION}"])
            prepared = prepared.select(PREPARED_SCHEMA.names)
            for name in others.column_names:
                prepared = prepared.append_column(f"{EXTRA}{name}", sources[name])
            yield prepared


class ClipMaker:
    """Ray actor with one model: prepared rows become rows of the result.

    Args:
        config: The job.
        info: The model.
        scorers: Those that the config names, as the driver found them.
        fingerprint: Of the certificate that clips are signed with.
    """

    def __init__(
        self,
        config: JobConfig,
        info: ModelInfo,
        scorers: tuple[ScorerIdentity, ...] = (),
        fingerprint: str | None = None,
    ) -> None:
        output = f"memory://{ledger.new_replica_id()}"
        config = _on_output(config, output)
        self._storage = open_storage(output)
        lease = Lease.acquire(self._storage, owner="processor")
        self._replica = Replica(
            ReplicaSettings(
                config,
                info,
                ledger.new_run_id(),
                lease.generation,
                lease.token,
                clip_schema(pa.schema([]), "parquet"),
                scorers=scorers,
                c2pa_certificate=fingerprint,
            )
        )
        self._lock = threading.Lock()
        self._wanted: Counter[str] = Counter()  # clips of calls under way
        self._made: dict[str, Row] = {}  # rows of the result, by clip

    def __call__(self, table: pa.Table) -> pa.Table:
        """Waits until every row is a clip or has an error."""
        table = without_empty_rows(table)
        asked = [row for row, _ in from_table(table.select(PREPARED_SCHEMA.names))]
        clip_ids = [row.spec.clip_id for row in asked if isinstance(row, PreparedClip)]
        with self._lock:
            self._wanted.update(clip_ids)
        if clip_ids:
            are_clips = pa.array([isinstance(row, PreparedClip) for row in asked])
            _raise_fatal(self._replica(table.select(PREPARED_SCHEMA.names).filter(are_clips)))
        with self._lock:
            self._collect()
            made = {clip_id: self._made[clip_id] for clip_id in clip_ids}
            self._wanted.subtract(clip_ids)
            self._made = {name: row for name, row in self._made.items() if self._wanted[name] > 0}
            self._wanted += Counter()  # drops those that nobody wants
        rows = [
            made[row.spec.clip_id] if isinstance(row, PreparedClip) else _failed(row)
            for row in asked
        ]
        result = pa.Table.from_pylist(rows, schema=RESULT_SCHEMA)
        for name in table.column_names:
            if name.startswith(EXTRA):
                result = result.append_column(name.removeprefix(EXTRA), table[name])
        return result

    def _collect(self) -> None:
        """Takes what is committed out of the memory that serves as output."""
        for part in ledger.list_parts(self._storage, "clips"):
            for row in read_part(self._storage, part).to_pylist():
                self._made[row["clip_id"]] = row
            self._storage.delete([part.path])
        for part in ledger.list_parts(self._storage, "failed"):
            for letter in read_part(self._storage, part).to_pylist():
                names = (field.name for field in fields(DeadLetter))
                self._made[letter["clip_id"]] = _failed(
                    DeadLetter(**{name: letter[name] for name in names})
                )
            self._storage.delete([part.path])


def _on_output(config: JobConfig, output: str) -> JobConfig:
    """The same job on an output of its own, which commits as soon as a call can return."""
    return config.with_flags(
        output=output,
        storage_options={},
        audio="parquet",
        part_clips=config.cluster.block_rows,
    )


def _failed(letter: DeadLetter) -> Row:
    """The row of the result for a dead letter."""
    return {
        "clip_id": letter.clip_id,
        "id": letter.id,
        "take": letter.take,
        "prompt": json.loads(letter.row_json).get("prompt"),
        "error": letter.message,
        "error_class": letter.error_class,
    }


def _raise_fatal(statuses: pa.Table) -> None:
    """Raises what ends a replica: no row can be made any more."""
    for status, _, _ in read_statuses(statuses):
        if status.status == "fatal":
            raise RuntimeError(f"{status.error_class}: {status.error}")


def _nothing_known() -> "tuple[Ids, ...]":
    return NO_IDS, NO_IDS
