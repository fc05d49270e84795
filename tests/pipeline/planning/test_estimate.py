"""What a run costs: from what was measured where there is something, else from assumptions."""

from pathlib import Path
from typing import Any

import pytest

from musicgen.checkpoints.describe import describe
from pipeline import ledger
from pipeline.audio.settings import AudioSettings
from pipeline.config import JobConfig
from pipeline.planning.estimate import (
    Estimate,
    assumed_bytes_per_s,
    describe_estimate,
    estimate,
    gpus_per_replica,
)
from pipeline.storage import Storage, open_storage
from tests.pipeline.outputs import RUN, clip, commit

TINY = describe("tiny")
PRICES = {
    "per_gpu_hour": 2.0,
    "per_gb_month": 0.02,
    "per_1000_requests": 0.005,
    "per_1000_reads": 0.0004,
}


def config(output: str = "s3://b/music", **flags: Any) -> JobConfig:
    needed = {"manifest": "m.parquet", "model": "tiny", "gpus_per_replica": 0}
    return JobConfig.of(**needed | {"output": output} | flags)


def record(run_id: str, **values: Any) -> dict[str, Any]:
    """What a run leaves: by default 200 s of audio in 50 s, by 2 replicas."""
    return {
        "run_id": run_id,
        "audio_seconds": 200.0,
        "wall_s": 70.0,
        "replicas": 2,
        "timing": {"startup_s": 20.0, "window_s": 50.0},
        "model": {"weights_hash": TINY.weights_hash},
        "config": {"engine": config().engine.model_dump(mode="json")},
    } | values


def reckon(
    job: JobConfig,
    *runs: dict[str, Any],
    clips: int = 100,
    audio_s: float = 1000.0,
    storage: Storage | None = None,
) -> Estimate:
    return estimate(job, TINY, clips, audio_s, storage or open_storage("memory://none", {}), runs)


def test_a_run_is_measured_by_the_latest_of_the_same_weights_and_engine() -> None:
    runs = [
        record("old", audio_seconds=20.0),
        record("right"),
        record("other engine", config={"engine": {"slots": 1}}, audio_seconds=1.0),
        record("other model", model={"weights_hash": "0" * 32}, audio_seconds=1.0),
        record("made nothing", audio_seconds=0.0),
    ]
    found = reckon(config(replicas=4, gpus_per_replica=0.5), *runs)
    assert found.speed is not None
    assert (found.speed.run_id, found.speed.audio_s_per_s) == ("right", 2.0)
    assert found.seconds == 20 + 1000 / (2 * 4)
    assert found.gpu_hours == pytest.approx(0.5 * 4 * 145 / 3600)


def test_another_engine_is_better_than_an_assumption() -> None:
    found = reckon(config(slots=3), record("other engine"))
    assert found.speed is not None
    assert found.speed.run_id == "other engine"


def test_a_record_without_times_counts_its_wall_time() -> None:
    found = reckon(config(), record("bare", timing={}))
    assert found.seconds == pytest.approx(1000 / (200 / (70 * 2)))


def test_before_the_first_run_the_speed_is_assumed_and_said_so() -> None:
    found = reckon(config())
    assert found.speed is not None
    assert found.speed.run_id is None
    text = describe_estimate(found, 1)
    assert "assumed, from the table of known speeds" in text[0]
    assert "(assumed)" in text[2]
    assert found.as_json()["speed_from"] == "assumed, from the table of known speeds"


def test_a_model_that_nobody_measured_has_no_time_but_a_size() -> None:
    job = config(model="somebody/else", per_gpu_hour=2.0, per_gb_month=0.02)
    found = reckon(job)
    assert (found.seconds, found.gpu_hours, found.money.gpus) == (None, None, None)
    assert found.stored_bytes > 1000 * 16_000
    assert "never measured" in describe_estimate(found, 1)[0]


def test_prices_make_money() -> None:
    found = reckon(config(gpus_per_replica=1, replicas=2, **PRICES), record("right"))
    assert found.gpu_hours is not None
    assert found.money.gpus == pytest.approx(2.0 * found.gpu_hours)
    assert found.money.storage_per_month == pytest.approx(0.02 * found.stored_bytes / 1e9)
    assert found.money.requests == pytest.approx(
        found.writes / 1000 * 0.005 + found.reads / 1000 * 0.0004
    )
    assert describe_estimate(found, 2)[-1].startswith("money: 0.30 for GPUs, 0.00 for storage per")
    assert describe_estimate(found, 2)[-1].endswith("(USD)")


def test_what_has_no_price_is_counted_and_not_priced() -> None:
    found = reckon(config(), record("right"))
    assert (found.money.gpus, found.money.storage_per_month, found.money.requests) == (None,) * 3
    assert not [line for line in describe_estimate(found, 1) if line.startswith("money")]


def test_nothing_left_to_make_costs_nothing() -> None:
    found = reckon(config(**PRICES), clips=0, audio_s=0.0)
    assert (found.seconds, found.gpu_hours, found.stored_bytes) == (0.0, 0.0, 0)
    assert (found.writes, found.reads) == (0, 0)
    assert found.money.gpus == found.money.requests == 0.0


@pytest.mark.parametrize(
    ("audio", "writes"), [("files", 1000 + 16), ("webdataset", 16 + 16), ("parquet", 16)]
)
def test_requests_follow_from_clips_parts_tasks_and_time(audio: str, writes: int) -> None:
    job = config(audio=audio, block_rows=10, part_clips=64, lease_ttl_s=20, replicas=2)
    found = reckon(job, record("right"), clips=1000, audio_s=1000.0)
    assert found.seconds == 270.0
    assert found.writes == writes + 100 + 270 * 4 / 20
    assert found.reads == 270 * 2 + 2 * 16


def test_a_local_output_takes_no_requests() -> None:
    found = reckon(config("out/music", per_1000_requests=1.0), record("right"))
    assert (found.writes, found.reads, found.money.requests) == (0, 0, 0.0)
    assert "requests: none to an object store" in describe_estimate(found, 1)


def test_audio_is_as_large_as_that_of_the_measured_run(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path), {})
    facts = {"n_samples": 32_000, "sample_rate_hz": 16_000, "audio_format": "flac"}
    rows = [clip(n, audio_bytes=50_000, **facts) for n in range(3)]
    commit(storage, rows, 0)
    found = reckon(config(str(tmp_path)), record(RUN), storage=storage)
    assert found.bytes_run_id == RUN
    assert found.stored_bytes == 1000 * 25_000 + 100 * 1000
    other = reckon(config(str(tmp_path), audio_format="wav"), record(RUN), storage=storage)
    assert other.bytes_run_id is None
    assert other.stored_bytes == 1000 * 32_000 + 100 * 1000
    assert ledger.read_runs(storage) == []


def test_sizes_by_format() -> None:
    def size(**audio: Any) -> float:
        return assumed_bytes_per_s(AudioSettings(**audio), 32_000, 2)

    assert size(audio_format="wav") == 128_000
    assert size(audio_format="wav", audio_bits=24) == 192_000
    assert size(audio_format="mp3", mp3_kbps=128) == 16_000
    assert size(audio_format="opus") < size(audio_format="flac") < size(audio_format="wav")


@pytest.mark.parametrize(
    ("flags", "gpus"),
    [
        ({"gpus_per_replica": 0.25}, 0.25),
        ({"gpus_per_replica": None, "device": "cpu"}, 0.0),
        ({"gpus_per_replica": None, "device": "cuda"}, 1.0),
    ],
)
def test_the_gpus_of_a_replica(flags: dict[str, Any], gpus: float) -> None:
    assert gpus_per_replica(config(**flags)) == (gpus, True)


def test_gpus_that_nobody_told_are_those_of_this_machine() -> None:
    gpus, told = gpus_per_replica(config(gpus_per_replica=None))
    assert gpus == bool(list(Path("/dev").glob("nvidia[0-9]*")))
    assert not told
    assert "GPU-hours" in describe_estimate(reckon(config(gpus_per_replica=None)), 1)[1]
