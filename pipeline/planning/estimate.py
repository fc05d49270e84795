"""What a run will take and cost: time, GPU-hours, bytes, requests and money."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from musicgen.checkpoints.describe import ModelInfo
from pipeline.audio.settings import AudioSettings
from pipeline.config import JobConfig
from pipeline.ledger.lease import BEATS_PER_TTL
from pipeline.ledger.parts import list_parts, read_part
from pipeline.planning.speeds import AUTO_SLOTS, STARTUP_S, Device, known_speed
from pipeline.storage import Storage
from pipeline.telemetry.settings import PriceSettings
from pipeline.telemetry.words import clock

# Assumed where no run has shown it. Opus and Vorbis: bytes per second of a channel.
FLAC_RATIO, VORBIS_BYTES_PER_S, OPUS_BYTES_PER_S = 0.6, 7_000, 8_000
ROW_BYTES, TAR_BYTES = 1_000, 2_500  # of a clip beside its audio: in Parquet, in a tar
_SAMPLED_PARTS = 16
_MOST_LEASE_READS_PER_S = 500


@dataclass(frozen=True)
class Speed:
    """What one replica makes.

    Attributes:
        audio_s_per_s: Seconds of audio per second.
        startup_s: Until the first clip is admitted.
        run_id: The run that was measured; None: assumed, from `pipeline.planning.speeds`.
    """

    audio_s_per_s: float
    startup_s: float
    run_id: str | None


@dataclass(frozen=True)
class Money:
    """In the currency of the prices; None where there is no price, or nothing to count."""

    currency: str
    gpus: float | None
    storage_per_month: float | None
    requests: float | None


@dataclass(frozen=True)
class Estimate:
    """What the clips that are left take.

    Attributes:
        speed: Of one replica; None for a model that was never measured, as are the times.
        seconds: From start to end.
        gpu_hours: GPUs times hours.
        gpus_are_told: Whether the number of GPUs is a setting, or what this machine has.
        stored_bytes: What is added to the output.
        bytes_run_id: The run whose clips say how large audio is; None: assumed.
        writes: Requests to an object store that write; 0 for a local output.
        reads: Those that read.
        money: What all that costs.
    """

    speed: Speed | None
    seconds: float | None
    gpu_hours: float | None
    gpus_are_told: bool
    stored_bytes: int
    bytes_run_id: str | None
    writes: int
    reads: int
    money: Money

    def as_json(self) -> dict[str, Any]:
        """For `plan --json`."""
        money = {
            "currency": self.money.currency,
            "gpus": self.money.gpus,
            "storage_per_month": self.money.storage_per_month,
            "requests": self.money.requests,
        }
        return {
            "estimated_s": self.seconds,
            "speed_audio_s_per_s": self.speed.audio_s_per_s if self.speed else None,
            "speed_from": _origin(self.speed),
            "gpu_hours": self.gpu_hours,
            "stored_bytes": self.stored_bytes,
            "stored_bytes_from": self.bytes_run_id or "assumed",
            "writes": self.writes,
            "reads": self.reads,
            "money": money,
        }


def estimate(
    config: JobConfig,
    info: ModelInfo,
    clips: int,
    audio_s: float,
    storage: Storage,
    runs: Sequence[Mapping[str, Any]],
) -> Estimate:
    """What it takes to make some clips.

    Args:
        config: The job.
        info: Its model.
        clips: How many there are to make.
        audio_s: How long they are together.
        storage: The output, whose earlier runs are measured.
        runs: The records of these runs, the oldest first.
    """
    gpus, told = gpus_per_replica(config)
    device: Device = "cuda" if gpus else "cpu"
    measured = _measured_run(config, info, runs)
    speed = _speed(config, device, measured)
    seconds = 0.0 if not clips else None
    if clips and speed is not None:
        seconds = speed.startup_s + audio_s / (speed.audio_s_per_s * config.cluster.replicas)
    per_s, bytes_run_id = _bytes_per_s(config, info, storage, measured)
    beside = ROW_BYTES + (TAR_BYTES if config.parts.audio == "webdataset" else 0)
    stored = ceil(per_s * audio_s) + clips * beside
    writes = reads = 0
    if not _is_local(config.run.output):
        writes, reads = _requests(config, clips, stored, seconds)
    gpu_hours = None if seconds is None else gpus * config.cluster.replicas * seconds / 3600
    money = _money(config.price, gpu_hours, stored, writes, reads)
    return Estimate(speed, seconds, gpu_hours, told, stored, bytes_run_id, writes, reads, money)


def gpus_per_replica(config: JobConfig) -> tuple[float, bool]:
    """GPUs of a replica, and whether that is a setting; else it is what this machine suggests."""
    told = config.cluster.gpus_per_replica
    if told is not None:
        return told, True
    if config.engine.device != "auto":
        return float(config.engine.device == "cuda"), True
    return float(has_gpu()), False


def has_gpu() -> bool:
    """Whether this machine has an NVIDIA GPU, without loading torch."""
    return any(Path("/dev").glob("nvidia[0-9]*"))


def _measured_run(
    config: JobConfig, info: ModelInfo, runs: Sequence[Mapping[str, Any]]
) -> Mapping[str, Any] | None:
    """The latest run of the same weights that made audio, with the same engine if there is one."""
    of_model = [
        run
        for run in runs
        if (run.get("audio_seconds") or 0) > 0
        and (run.get("wall_s") or 0) > 0
        and (run.get("model") or {}).get("weights_hash") == info.weights_hash
    ]
    engine = config.engine.model_dump(mode="json")
    alike = [run for run in of_model if (run.get("config") or {}).get("engine") == engine]
    return next(reversed(alike or of_model), None)


def _speed(config: JobConfig, device: Device, run: Mapping[str, Any] | None) -> Speed | None:
    if run is not None:
        timing = run.get("timing") or {}
        window_s, startup_s = timing.get("window_s") or 0.0, timing.get("startup_s") or 0.0
        if not window_s:
            window_s, startup_s = run["wall_s"], 0.0
        made_s = run["audio_seconds"] / (window_s * run.get("replicas", 1))
        return Speed(made_s, startup_s, run["run_id"])
    slots = AUTO_SLOTS[device] if config.engine.slots == "auto" else config.engine.slots
    assumed = known_speed(config.model.name, device, slots)
    return None if assumed is None else Speed(assumed, STARTUP_S[device], None)


def _bytes_per_s(
    config: JobConfig, info: ModelInfo, storage: Storage, run: Mapping[str, Any] | None
) -> tuple[float, str | None]:
    """Bytes of a second of audio, and the run whose clips say so."""
    form = config.audio.audio_format
    n_bytes = seconds = 0.0
    if run is not None:
        parts = list_parts(storage, "clips", run["run_id"])
        columns = ("audio_bytes", "n_samples", "sample_rate_hz", "audio_format")
        for part in parts[:: max(1, len(parts) // _SAMPLED_PARTS)]:
            for row in read_part(storage, part, columns).to_pylist():
                if row["audio_format"] == form:
                    n_bytes += row["audio_bytes"]
                    seconds += row["n_samples"] / row["sample_rate_hz"]
    if run is not None and seconds:
        return n_bytes / seconds, str(run["run_id"])
    return assumed_bytes_per_s(config.audio, info.sample_rate_hz, info.channels), None


def assumed_bytes_per_s(audio: AudioSettings, sample_rate_hz: int, channels: int) -> float:
    """Bytes of a second of audio, by its format; of FLAC, Vorbis and Opus a usual value."""
    plain = sample_rate_hz * channels * audio.audio_bits / 8
    return {
        "wav": plain,
        "flac": FLAC_RATIO * plain,
        "mp3": audio.mp3_kbps * 125.0,
        "ogg": float(VORBIS_BYTES_PER_S * channels),
        "opus": float(OPUS_BYTES_PER_S * channels),
    }[audio.audio_format]


def _is_local(output: str) -> bool:
    return "://" not in output or output.startswith("file://")


def _requests(
    config: JobConfig, clips: int, stored_bytes: int, seconds: float | None
) -> tuple[int, int]:
    """Writes and reads of a run in an object store, without those of references.

    Writes: audio, parts, the record of what a replica has in hand for each task, the lease. Reads:
    replicas look at the lease once a second, and before and after the audio of each part.
    """
    if not clips:
        return 0, 0
    parts, cluster, time_s = config.parts, config.cluster, seconds or 0.0
    n_parts = max(
        ceil(clips / parts.part_clips),
        ceil(stored_bytes / (parts.part_megabytes * 1e6)),
        min(clips, ceil(time_s * cluster.replicas / parts.part_seconds)),
    )
    audio = {"files": clips, "webdataset": n_parts, "parquet": 0}[parts.audio]
    beats = ceil(time_s * BEATS_PER_TTL / config.run.lease_ttl_s)
    writes = audio + n_parts + ceil(clips / cluster.block_rows) + beats
    looks = ceil(time_s * min(cluster.replicas, _MOST_LEASE_READS_PER_S))
    return writes, looks + 2 * n_parts


def _money(
    price: PriceSettings, gpu_hours: float | None, stored_bytes: int, writes: int, reads: int
) -> Money:
    gpus = requests = None
    if price.per_gpu_hour is not None and gpu_hours is not None:
        gpus = price.per_gpu_hour * gpu_hours
    if price.per_1000_requests is not None:
        per_read = price.per_1000_requests if price.per_1000_reads is None else price.per_1000_reads
        requests = (writes * price.per_1000_requests + reads * per_read) / 1000
    stored = None if price.per_gb_month is None else price.per_gb_month * stored_bytes / 1e9
    return Money(price.currency, gpus, stored, requests)


def describe_estimate(found: Estimate, replicas: int) -> list[str]:
    """Lines for people; each says whether it is measured or assumed."""
    if found.speed is None or found.seconds is None or found.gpu_hours is None:
        time = ["time: unknown, this model was never measured; a first run of a few rows shows it"]
    else:
        speed = f"{found.speed.audio_s_per_s:.3g} audio-seconds per second and replica"
        told = "" if found.gpus_are_told else ", by what this machine has: --gpus-per-replica"
        time = [
            f"time: about {clock(found.seconds)} with {replicas} "
            f"{'replica' if replicas == 1 else 'replicas'} "
            f"({speed}, {_origin(found.speed)})",
            f"GPU-hours: {found.gpu_hours:.4g}{told}",
        ]
    size = f"measured in run {found.bytes_run_id}" if found.bytes_run_id else "assumed"
    if found.writes or found.reads:
        requests = f"requests: about {found.writes} that write and {found.reads} that read"
    else:
        requests = "requests: none to an object store"
    stored = f"storage: {found.stored_bytes / 1e9:.4g} GB ({size})"
    return [*time, stored, requests, *_priced(found.money)]


def _priced(money: Money) -> list[str]:
    pieces = {
        "GPUs": money.gpus,
        "storage per month": money.storage_per_month,
        "requests": money.requests,
    }
    given = [f"{value:.2f} for {what}" for what, value in pieces.items() if value is not None]
    return [f"money: {', '.join(given)} ({money.currency})"] if given else []


def _origin(speed: Speed | None) -> str:
    if speed is None:
        return "unknown"
    if speed.run_id is None:
        return "assumed, from the table of known speeds"
    return f"measured in run {speed.run_id}"
