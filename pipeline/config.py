"""The job's settings in sections: the frozen models from which `job.yaml`, flags and help come."""

import difflib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic.fields import FieldInfo

from manifests.schema import GenerationDefaults
from manifests.uris.policy import ReferencePolicy
from musicgen.config import AdapterSource, ModelSource, WeightsFormat
from musicgen.registry import AUTO_SLOTS_AT_MOST, AUTO_SLOTS_ON_CPU
from pipeline.audio.marks.settings import MarksSettings
from pipeline.audio.settings import AudioSettings, QualitySettings
from pipeline.ledger.settings import PartsSettings
from pipeline.telemetry.settings import PriceSettings

MOST_SLOTS = 1024
EXIT_DEAD_LETTERS, EXIT_DRAINED = 3, 5  # how a run can end in order, besides 0
DType = Literal["auto", "fp32", "bf16", "fp16"]
Device = Literal["auto", "cpu", "cuda"]
RuntimeName = Literal["ray", "local"]

# A clip's default deadline. The largest model on a slow CPU takes about 100 s per second of audio.
ROW_LIMIT_S, ROW_LIMIT_PER_AUDIO_S = 600.0, 300.0
_TIME = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd]?)")
_UNITS_S = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}

# Storage options that hold credentials, at any depth; they belong in the environment.
_SECRET_NAME = re.compile(r"(^|_)key$|secret|token|passw|credential|access_key", re.I)
_SECRET_IN_URL = re.compile(r"://[^/@\s]+:[^/@\s]+@")

# Flags whose name differs from the field: these are given once per item.
REPEATED_FLAGS = {
    "storage_options": "--storage-option",
    "replica_resources": "--replica-resource",
    "extra_columns": "--extra-column",
    "adapter": "--adapter",
    "qc": "--qc",
}
OBJECT_STORES = ("s3://", "s3a://", "gs://", "gcs://")


def flag_of(name: str) -> str:
    """The flag of a setting."""
    return REPEATED_FLAGS.get(name) or "--" + name.replace("_", "-")


class ConfigError(ValueError):
    """The configuration as a whole is unusable (exit code 2)."""


def refuse_credentials(options: Mapping[str, Any]) -> None:
    """Raises ConfigError where storage options hold a secret: they are logged and recorded."""
    secret = sorted(set(secret_names(options)))
    if secret:
        raise ConfigError(
            f"storage option {', '.join(secret)}: credentials are not accepted here, they would "
            "end in logs; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment"
        )


def check_location(uri: str, what: str) -> str:
    """The address of a manifest or an output, if it can be used as it is; else a ConfigError.

    It is logged and recorded, so it may hold no password; and object stores take `..` for a name.
    """
    if _SECRET_IN_URL.search(uri):
        raise ConfigError(
            f"{what} holds user:password@: credentials are not accepted there, they would end in "
            "logs; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment"
        )
    if uri.startswith(OBJECT_STORES) and ".." in uri.split("/"):
        raise ConfigError(f"{what} {uri}: object stores know no `..`; write the path that is meant")
    return uri


def secret_names(options: Mapping[str, Any]) -> Iterator[str]:
    """Names, at any depth, under which a secret seems to stand."""
    for name, value in options.items():
        in_url = isinstance(value, str) and _SECRET_IN_URL.search(value)
        if (_SECRET_NAME.search(name) and value is not None) or in_url:
            yield name
        elif isinstance(value, Mapping):
            yield from secret_names(value)


class ModelSettings(BaseModel):
    """Which checkpoint makes the music. In `job.yaml`, `model: NAME` alone means its `name`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(
        description="Checkpoint: `tiny` (bundled), a hub id such as facebook/musicgen-small, "
        "or a local folder."
    )
    revision: str | None = Field(None, description="Hub revision of the checkpoint.")
    text_encoder: str | None = Field(
        None, description="T5 in place of the checkpoint's own: folder or hub id."
    )
    codec: str | None = Field(
        None, description="EnCodec in place of the checkpoint's own: folder or hub id."
    )
    style_encoder: str | None = Field(None, description="MERT of a style model: folder or hub id.")
    adapter: tuple[str, ...] = Field((), description="LoRA adapters to merge: FOLDER[:SCALE].")
    weights: WeightsFormat = Field("full", description="int8 = its matrices rounded, row by row.")

    @field_validator("text_encoder", "codec", "style_encoder")
    @classmethod
    def _absolute_folder(cls, name: str | None) -> str | None:
        """A local folder becomes absolute, since workers have other folders; hub ids stay."""
        folder = Path(name or "").expanduser()
        return str(folder.absolute()) if name and folder.is_dir() else name

    @field_validator("adapter")
    @classmethod
    def _absolute_adapters(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(str(AdapterSource.of(text).moved(cls._absolute_folder)) for text in texts)

    @property
    def source(self) -> ModelSource:
        """The same for `musicgen`, which finds and loads it."""
        return ModelSource(**dict(self))


class EngineSettings(BaseModel):
    """How one replica computes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: Device = Field("auto", description="Where replicas compute; auto = cuda if granted.")
    dtype: DType = Field("auto", description="auto = fp16 autocast on CUDA, fp32 on CPU.")
    slots: Annotated[int, Field(ge=1, le=MOST_SLOTS)] | Literal["auto"] = Field(
        "auto",
        description="Clips in flight per replica (2 rows each); auto = what the GPU has room for, "
        f"at most {AUTO_SLOTS_AT_MOST}, and {AUTO_SLOTS_ON_CPU} on a CPU. Whether the bits of a "
        "clip depend on it says the column bits_depend_on.",
    )
    repeatable: bool = Field(True, description="A GPU takes only algorithms whose bits repeat.")
    threads_per_replica: int = Field(
        1, ge=1, le=256, description="CPU threads of a replica (part of what makes bits repeat)."
    )

    @field_validator("slots", mode="before")
    @classmethod
    def _slots(cls, value: Any) -> Any:
        """From a flag it comes as text."""
        if isinstance(value, str) and value.isascii() and value.isdigit():
            value = int(value)
        if value != "auto" and not (type(value) is int and 1 <= value <= MOST_SLOTS):
            raise ValueError(
                f"slots={value!r} must be a whole number from 1 to {MOST_SLOTS}, or auto; correct "
                "--slots or job.yaml"
            )
        return value

    @model_validator(mode="after")
    def _fp16_needs_cuda(self) -> "EngineSettings":
        if self.dtype == "fp16" and self.device == "cpu":
            raise ValueError("dtype=fp16 needs a GPU; use bf16 or fp32 with device=cpu")
        return self


class ClusterSettings(BaseModel):
    """How many actors there are, what each needs, and how many rows they get at once."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    replicas: int = Field(1, ge=1, le=4096, description="Model replicas (Ray actors).")
    gpus_per_replica: float | None = Field(
        None, ge=0, le=8, description="GPUs per replica; default 1 where the cluster has GPUs."
    )
    cpus_per_replica: float = Field(1.0, ge=0, description="Logical CPUs per replica.")
    replica_resources: dict[str, float] = Field(
        default_factory=dict, description="Custom Ray resources that a replica needs."
    )
    prepare_workers: int = Field(1, ge=1, le=256, description="CPU actors that prepare rows.")
    prepare_block_rows: int = Field(256, ge=1, description="Rows per task of the prepare pool.")
    block_rows: int = Field(8, ge=1, le=1024, description="Rows per task of a replica.")


class ReferencesSettings(ReferencePolicy):
    """How reference audio is read, and from where."""

    separation: Literal["auto", "none"] = Field(
        "auto", description="Hear melodies through Demucs where it is installed; none = plain mix."
    )


class RunSettings(BaseModel):
    """What is read and written, and when a run waits, reports and gives up."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    manifest: str = Field(description="Parquet: a file, folder or glob; file, s3:// or gs://.")
    output: str = Field(description="Root of the dataset to write; file, s3:// or gs://.")
    run_id: str | None = Field(
        None,
        pattern=r"^\d{8}T\d{6}-[0-9a-f]{6}$",
        description="Name of this run, e.g. 20260131T120000-a1b2c3; default: the time and chance.",
    )
    extra_columns: tuple[str, ...] = Field(
        (), description="Manifest columns to carry through although they look like a misspelling."
    )
    storage_options: dict[str, Any] = Field(
        default_factory=dict, description="fsspec options, e.g. endpoint_url; no credentials."
    )
    runtime: RuntimeName = Field(
        "ray", description="Where the job runs: on Ray, or in threads of this process (local)."
    )
    lease_ttl_s: float = Field(20.0, gt=0.5, description="A lease silent this long is taken over.")
    tolerate_dead_letters: bool = Field(
        False,
        description="Exit 0, not 3, where rows failed: for schedulers that try again what fails.",
    )
    wait: bool = Field(False, description="Wait for another run on this output to end.")
    interval_s: float = Field(10.0, gt=0.1, description="Seconds between progress lines.")
    stall_timeout_s: float = Field(
        3600.0, gt=0, description="Give up when no clip was committed for this long."
    )
    row_timeout_s: float | None = Field(
        None,
        gt=0,
        description="A clip that is not generated so long after its admission becomes a dead "
        "letter; default 10 minutes and 5 more per second of audio.",
    )
    hang_timeout_s: float = Field(
        900.0, gt=0, description="A replica whose work does not move for so long ends itself."
    )
    max_deaths: int = Field(
        8, ge=3, description="Give up when a replica died N times in a row without making a clip."
    )
    drain_s: float = Field(
        20.0, ge=0, description="Seconds that clips in the slots have to finish in a drain."
    )
    max_runtime: str | None = Field(
        None, description="Drain after this time: seconds, or with a unit as in 90m, 8h, 2d."
    )
    max_gpu_hours: float | None = Field(
        None,
        gt=0,
        description="Drain after so many GPU hours: replicas x GPUs x time (CPUs are free).",
    )
    report_sample: int = Field(12, ge=0, le=500, description="Clips with players in report.html.")
    verbose: bool = Field(False, description="Show the log lines of the actors.")

    @field_validator("storage_options")
    @classmethod
    def _no_credentials(cls, options: dict[str, Any]) -> dict[str, Any]:
        refuse_credentials(options)
        return options

    @field_validator("manifest", "output")
    @classmethod
    def _absolute(cls, uri: str, info: ValidationInfo) -> str:
        """Workers have working folders of their own."""
        check_location(uri, flag_of(info.field_name or "address"))
        return uri if "://" in uri else str(Path(uri).expanduser().absolute())

    @field_validator("max_runtime", mode="before", json_schema_input_type=str | float | None)
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        """YAML reads 3600 as a number."""
        return str(value) if isinstance(value, int | float) else value

    @field_validator("max_runtime")
    @classmethod
    def _is_a_time(cls, text: str | None) -> str | None:
        if text is not None and not _TIME.fullmatch(text):
            raise ValueError(
                f"max_runtime={text!r}: write seconds, or a number with s, m, h or d, as in 90m, 8h"
            )
        return text

    @property
    def max_runtime_s(self) -> float | None:
        """`max_runtime` in seconds."""
        found = _TIME.fullmatch(self.max_runtime or "")
        return float(found[1]) * _UNITS_S[found[2]] if found else None

    def row_limit_s(self, duration_s: float) -> float:
        """How long a clip of that length may take after its admission."""
        return self.row_timeout_s or ROW_LIMIT_S + ROW_LIMIT_PER_AUDIO_S * duration_s


class JobConfig(BaseModel):
    """Everything that one run is told, in sections. Each setting is a key of `job.yaml` and a
    flag of the same name, but for `model.name`, whose flag is `--model`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: ModelSettings = Field(description="The checkpoint.")
    generation: GenerationDefaults = Field(
        default_factory=GenerationDefaults, description="Defaults for what a row leaves empty."
    )
    engine: EngineSettings = Field(
        default_factory=EngineSettings, description="How one replica computes."
    )
    cluster: ClusterSettings = Field(
        default_factory=ClusterSettings, description="Actors, their resources and block sizes."
    )
    references: ReferencesSettings = Field(
        default_factory=ReferencesSettings,
        description="How reference audio is read, and from where.",
    )
    parts: PartsSettings = Field(
        default_factory=PartsSettings, description="When clips are committed, and in which form."
    )
    audio: AudioSettings = Field(
        default_factory=AudioSettings, description="Format and level of the audio files."
    )
    quality: QualitySettings = Field(
        default_factory=QualitySettings, description="Checks and scores of clips."
    )
    marks: MarksSettings = Field(
        default_factory=MarksSettings, description="What marks clips as made by AI."
    )
    run: RunSettings = Field(description="Input, output, limits and reports of a run.")
    price: PriceSettings = Field(
        default_factory=PriceSettings, description="What `plan` reckons a run's cost with."
    )

    @model_validator(mode="before")
    @classmethod
    def _required_sections(cls, value: Any) -> Any:
        """A section that is left out is empty, so that faults name the settings that it lacks."""
        return {"model": {}, "run": {}, **value} if isinstance(value, Mapping) else value

    @field_validator("model", mode="before", json_schema_input_type=str | ModelSettings)
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @classmethod
    def of(cls, **flags: Any) -> "JobConfig":
        """The config of flags, under their names with underscores; None means not given.

        Raises:
            ConfigError: No flag has that name.
            pydantic.ValidationError: A value is missing or out of range.
        """
        return cls.model_validate(in_sections(flags))

    def with_flags(self, **flags: Any) -> "JobConfig":
        """A copy in which some flags have other values."""
        told = self.model_dump(exclude_unset=True)
        for section, settings in in_sections(flags).items():
            told[section] = told.get(section, {}) | settings
        return JobConfig.model_validate(told)

    def tasks_in_flight(self, *, on_gpu: bool) -> int:
        """Ray tasks that a replica holds at once: enough rows for the slots, those that wait
        behind them, and a part that is being filled (a task ends when its rows are committed)."""
        slots, on_gpu = self.engine.slots, on_gpu and self.engine.device != "cpu"
        if slots == "auto":  # the driver does not know what GPUs have room for
            slots = AUTO_SLOTS_AT_MOST if on_gpu else AUTO_SLOTS_ON_CPU
        rows = 2 * slots + self.parts.part_clips
        return 1 + -(-rows // self.cluster.block_rows)


class Setting(NamedTuple):
    """Where the setting of a flag stands in the config."""

    section: str
    key: str
    field: FieldInfo


def _all_settings() -> dict[str, Setting]:
    found = {}
    for section, model in SECTIONS.items():
        for key, field in model.model_fields.items():
            found["model" if key == "name" else key] = Setting(section, key, field)
    return found


SECTIONS: dict[str, type[BaseModel]] = {
    name: field.annotation
    for name, field in JobConfig.model_fields.items()
    if isinstance(field.annotation, type)
}
SETTINGS = _all_settings()  # by the name of the flag, with underscores


def in_sections(flags: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The given flags (not None) by section and key; ConfigError where no flag has that name."""
    found: dict[str, dict[str, Any]] = {}
    for name, value in flags.items():
        if name not in SETTINGS:
            near = difflib.get_close_matches(name, SETTINGS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(SETTINGS)}"
            raise ConfigError(f"no setting is named {name}; {hint}")
        if value is not None:
            section, key, _ = SETTINGS[name]
            found.setdefault(section, {})[key] = value
    return found
