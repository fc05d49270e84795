"""The job's settings: one frozen model from which `job.yaml`, the flags and the help texts come."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from manifests.schema import GenerationDefaults
from pipeline.audio.limits import QualityLimits

AudioMode = Literal["files", "parquet", "webdataset"]
AudioFormat = Literal["flac", "wav", "mp3", "ogg", "opus"]
Normalize = Literal["none", "clip", "peak", "rms", "loudness"]
MOST_SLOTS, AUTO_SLOTS_AT_MOST = 1024, 64
DType = Literal["auto", "fp32", "bf16", "fp16"]
Device = Literal["auto", "cpu", "cuda"]
RuntimeName = Literal["ray", "local"]

# A clip's default deadline. The largest model on a slow CPU takes about 100 s per second of audio.
ROW_LIMIT_S, ROW_LIMIT_PER_AUDIO_S = 600.0, 300.0
_TIME = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd]?)")
_UNITS_S = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}

# Storage options that hold credentials, at any depth; they belong in the environment.
_SECRET_NAME = re.compile(r"^key$|secret|token|passw|access_key|account_key|credential", re.I)
_SECRET_IN_URL = re.compile(r"://[^/@\s]+:[^/@\s]+@")


# Flags whose name differs from the field: these are given once per item.
REPEATED_FLAGS = {
    "storage_options": "--storage-option",
    "replica_resources": "--replica-resource",
    "extra_columns": "--extra-column",
    "qc": "--qc",
}
OBJECT_STORES = ("s3://", "s3a://", "gs://", "gcs://")


def flag_of(field: int | str) -> str:
    """The flag of a field that is given once."""
    return "--" + str(field).replace("_", "-")


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


class JobConfig(BaseModel):
    """Everything that one run is told. Each field is a key of `job.yaml` and a flag."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    manifest: str = Field(description="Parquet manifest: a file or a folder; file, s3:// or gs://.")
    output: str = Field(description="Root of the dataset to write; file, s3:// or gs://.")
    model: str = Field(
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
    style_encoder: str | None = Field(
        None, description="MERT of a style checkpoint: folder or hub id."
    )

    run_id: str | None = Field(
        None,
        pattern=r"^\d{8}T\d{6}-[0-9a-f]{6}$",
        description="Name of this run, e.g. 20260131T120000-a1b2c3; default: the time and chance.",
    )
    runtime: RuntimeName = Field(
        "ray", description="Where the job runs: a Ray cluster, or threads of this process."
    )
    replicas: int = Field(1, ge=1, le=4096, description="Model replicas (Ray actors).")
    gpus_per_replica: float | None = Field(
        None, ge=0, le=8, description="GPUs per replica; default 1 where the cluster has GPUs."
    )
    cpus_per_replica: float = Field(1.0, ge=0, description="Logical CPUs per replica.")
    replica_resources: dict[str, float] = Field(
        default_factory=dict, description="Custom Ray resources that a replica needs."
    )
    threads_per_replica: int = Field(
        1, ge=1, le=256, description="CPU threads of a replica (part of what makes bits repeat)."
    )
    device: Device = Field("auto", description="Where replicas compute; auto = cuda if granted.")
    dtype: DType = Field("auto", description="auto = fp16 autocast on CUDA, fp32 on CPU.")
    slots: int | Literal["auto"] = Field(
        8,
        description="Clips in flight per replica (2 rows each); auto = what the GPU has room for, "
        f"at most {AUTO_SLOTS_AT_MOST}. Clips repeat to the bit at equal slots only.",
    )

    prepare_workers: int = Field(1, ge=1, le=256, description="CPU actors that prepare rows.")
    prepare_block_rows: int = Field(256, ge=1, description="Rows per task of the prepare pool.")
    block_rows: int = Field(8, ge=1, le=1024, description="Rows per task of a replica.")

    part_clips: int = Field(64, ge=1, le=10_000, description="Commit at the latest after N clips.")
    part_seconds: float = Field(300.0, gt=0, description="Commit at the latest after S seconds.")
    part_megabytes: float = Field(64.0, gt=0, description="Commit at the latest after M MB.")
    audio: AudioMode = Field("files", description="Where audio goes: objects, Parquet or tars.")
    audio_format: AudioFormat = Field(
        "flac", description="Audio coding; ogg = Vorbis; opus is resampled to 48 kHz."
    )
    audio_bits: Literal[16, 24] = Field(16, description="Bits per sample of FLAC and WAV.")
    mp3_kbps: int = Field(192, ge=32, le=320, description="Constant bitrate of MP3.")
    encode_threads: int = Field(
        4, ge=1, le=64, description="Clips that a replica measures and encodes side by side."
    )
    ogg_quality: float | None = Field(
        None, gt=0, le=1, description="Quality of Vorbis and Opus, up to 1; default the codec's."
    )

    normalize: Normalize = Field(
        "none", description="Level of the clips, as AudioCraft names it; none = the model's own."
    )
    peak_headroom_db: float = Field(
        1.0, ge=0, le=60, description="normalize=peak and clip: highest sample below full scale."
    )
    rms_headroom_db: float = Field(
        18.0, ge=0, le=60, description="normalize=rms: RMS below full scale."
    )
    target_lufs: float = Field(
        -14.0, ge=-60, le=0, description="normalize=loudness: BS.1770 loudness of the clips."
    )
    loudness_compressor: bool = Field(
        False, description="normalize=loudness: bend peaks with tanh, as AudioCraft can."
    )
    true_peak_dbtp: float = Field(
        0.0, ge=-20, le=20, description="Turn down what peaks above this, between samples too; "
        "20 = never, then what exceeds full scale is cut off."
    )  # fmt: skip

    qc: QualityLimits = Field(
        default_factory=QualityLimits,
        description="Limits on what a clip may measure, e.g. max_silence_ratio=0.5; off lifts one.",
    )
    qc_action: Literal["fail", "keep"] = Field(
        "fail", description="A clip past a limit: a dead letter, or kept and named in qc_failed."
    )
    max_retakes: int = Field(
        0, ge=0, le=20, description="Make a clip that fails QC again, with the next seed."
    )

    separation: Literal["auto", "none"] = Field(
        "auto", description="Hear melodies through Demucs where it is installed; none = plain mix."
    )
    generation: GenerationDefaults = Field(
        default_factory=GenerationDefaults, description="Defaults for what a row leaves empty."
    )
    extra_columns: tuple[str, ...] = Field(
        (), description="Manifest columns to carry through although they look like a misspelling."
    )
    storage_options: dict[str, Any] = Field(
        default_factory=dict, description="fsspec options, e.g. endpoint_url; no credentials."
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

    @field_validator("text_encoder", "codec", "style_encoder")
    @classmethod
    def _absolute_folder(cls, name: str | None) -> str | None:
        """The same for what may be a folder or a hub id."""
        if name is None or not Path(name).expanduser().is_dir():
            return name
        return str(Path(name).expanduser().absolute())

    @model_validator(mode="after")
    def _fp16_needs_cuda(self) -> "JobConfig":
        if self.dtype == "fp16" and self.device == "cpu":
            raise ValueError("dtype=fp16 needs a GPU; use bf16 or fp32 with device=cpu")
        return self

    @field_validator("max_runtime", mode="before")
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

    @property
    def tasks_in_flight(self) -> int:
        """Ray tasks that a replica holds at once: enough rows for the slots, those that wait
        behind them, and a part that is being filled (a task ends when its rows are committed)."""
        slots = AUTO_SLOTS_AT_MOST if self.slots == "auto" else self.slots
        rows = 2 * slots + self.part_clips
        return 1 + -(-rows // self.block_rows)
