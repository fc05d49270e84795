"""Numbers as people read them."""

import pytest

from pipeline.telemetry.words import clock, counted


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00:00"), (59.6, "0:01:00"), (3_725, "1:02:05"), (90_000, "25:00:00")],
)
def test_a_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_one_is_singular() -> None:
    assert [counted(n, "clip") for n in (0, 1, 2)] == ["0 clips", "1 clip", "2 clips"]
    assert counted(2, "entry", "entries") == "2 entries"
    assert counted(1, "entry", "entries") == "1 entry"
