"""Where the time of replicas goes, and what a run makes of it."""

import time
from dataclasses import asdict

import pytest

from pipeline.telemetry.timing import TIMES_TYPE, ReplicaTimes, RunTimes


def test_overhead_is_the_share_of_the_window_without_a_running_model() -> None:
    times = RunTimes()
    times.update("a", asdict(ReplicaTimes(100.0, 195.0, model_s=90.0, model_cpu_s=80.0)))
    times.update("b", asdict(ReplicaTimes(102.0, 200.0, model_s=96.0, model_cpu_s=90.0)))

    assert times.window_s == 100.0  # from the first of both to the last of both
    assert times.overhead(2) == pytest.approx(1 - 186 / 200)
    assert times.overhead(2, cpu=True) == pytest.approx(1 - 170 / 200)
    assert times.seconds()["model_s"] == 186.0


def test_before_anything_is_committed_there_is_nothing_to_say() -> None:
    times = RunTimes()
    assert (times.window_s, times.overhead(1), times.slot_occupancy) == (0.0, None, None)

    times.update("a", asdict(ReplicaTimes(first_admission=100.0, model_s=5.0)))

    assert (times.window_s, times.overhead(1)) == (0.0, None)


def test_an_older_word_of_a_replica_changes_nothing() -> None:
    """Tasks of one replica may end in any order."""
    times = RunTimes()
    times.update("a", asdict(ReplicaTimes(1.0, 3.0, model_s=2.0)))
    times.update("a", asdict(ReplicaTimes(1.0, 2.0, model_s=1.0)))

    assert times.replicas["a"].last_commit == 3.0


def test_occupancy_counts_the_steps_before_the_latest_admission() -> None:
    """After the last clip entered, slots run empty because nothing is left: that is no fault."""
    first, second = ReplicaTimes(), ReplicaTimes()
    first.admitted(offered_rows=0, held_rows=0)
    first.admitted(offered_rows=400, held_rows=390)
    second.admitted(offered_rows=100, held_rows=80)
    times = RunTimes({"a": first, "b": second})

    assert times.slot_occupancy == pytest.approx(470 / 500)


def test_work_beside_the_loop_is_kept_by_kind() -> None:
    times = ReplicaTimes()
    with times.model(), times.beside("decode_s"):
        time.sleep(0.02)

    assert times.decode_s == pytest.approx(times.model_s, abs=0.01)
    assert times.model_s >= 0.02 > times.model_cpu_s
    assert times.encode_s == 0.0


def test_a_status_row_carries_every_figure() -> None:
    assert {part.name for part in TIMES_TYPE} == set(asdict(ReplicaTimes()))
