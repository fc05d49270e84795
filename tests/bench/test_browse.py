"""The benchmark of the page, with few clips: its path and the names of its figures."""

from pathlib import Path

import pytest

from tests.bench import browse


@pytest.mark.slow
def test_the_figures_of_a_few_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browse, "OUT", tmp_path)

    found = browse.measure(600)

    assert found["clips"] == 600
    assert {f"{name}_s" for name in browse.QUERIES} <= set(found)
