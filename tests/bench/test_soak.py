"""Long use in short: a few runs on one output, and what they leave behind."""

from pathlib import Path

import pytest

from tests.bench import soak

NOTHING_LEFT = {"actors_left": 0, "attempt_records_left": 0, "hidden_files_left": 0}


@pytest.mark.long
@pytest.mark.usefixtures("ray_cluster")
def test_runs_on_one_output_leave_nothing_behind(tmp_path: Path) -> None:
    found = soak.runs_in_a_row(2, tmp_path, clips_per_run=2)

    assert found | NOTHING_LEFT == found
    assert found["threads"][1] <= found["threads"][0] + 2


@pytest.mark.long
@pytest.mark.usefixtures("ray_cluster")
def test_memory_of_driver_and_replica_is_read_along_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(soak, "SAMPLE_S", 0.05)

    found = soak.many_clips(24, tmp_path, part_clips=2)

    assert found | NOTHING_LEFT == found
    assert found["driver"]["last_mb"] > 50
    assert found["replica"]["last_mb"] > 50
    assert abs(found["replica"]["grown"]) < 0.5


def test_growth_is_counted_from_the_end_of_the_first_tenth() -> None:
    memory = soak.Memory()
    for step in range(1, 101):
        memory.add(step / 100, 50 if step <= 10 else 100 + step // 10)

    assert memory.grown == pytest.approx(0.0784, abs=0.01)
