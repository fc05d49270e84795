"""The benchmark of planning, at a size that tests can afford."""

from pathlib import Path

import pytest

from tests.bench import scale


@pytest.mark.long
def test_the_figures_of_a_small_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale, "OUT", tmp_path.absolute())
    monkeypatch.setattr(scale, "WORKERS", (1,))

    found = scale.measure(20_000)

    first, unchanged = found["plan_2e4_workers_1"], found["plan_2e4_unchanged"]
    assert first["outcomes"] == {"done": 19_980, "pending": 20}
    assert first["row_groups_with_work"] == 2
    assert unchanged["outcomes"] == {"done": 20_000}
    assert found["plan_2e4_s"] == first["seconds"] > 0
    assert found["plan_2e4_rss_mb"] > 50
    assert found["plan_2e4_driver_rss_mb"] > 50
    assert found["plan_2e4_unchanged_s"] == unchanged["seconds"]
    assert len([*(tmp_path / "scale-20000/out/clips").iterdir()]) == 79 + 1
