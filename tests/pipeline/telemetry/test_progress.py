"""What people see while a run goes on."""

import io
import re
import time

import pytest
from rich.console import Console

from pipeline.telemetry.progress import ProgressView, Tally
from pipeline.telemetry.timing import ReplicaTimes, RunTimes


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def working_for(seconds: float) -> RunTimes:
    """The times of a run whose first clip entered an engine so long ago."""
    return RunTimes({"a": ReplicaTimes(first_admission=time.time() - seconds)})


def half_way(**changes: object) -> Tally:
    """A run of 150 s that has worked for 100 s of them."""
    told = {
        "clips": 9, "failed": 1, "audio_s": 50.0,
        "started": time.monotonic() - 150, "times": working_for(100),
    }  # fmt: skip
    return Tally(**{"total": 40} | told | changes)


def test_the_line_has_counts_speed_failures_and_eta_from_the_first_admission_on() -> None:
    assert re.fullmatch(
        r"9 of 40 clips made, 1 failed, 30 left, 50\.0 s of audio, 0\.50 audio-s/s, "
        r"0:02:30 elapsed, ETA 0:05:00",
        half_way().line(),
    )


def test_before_the_first_commit_it_says_what_is_going_on() -> None:
    assert (
        "0 of 1 clip, 0:00:00 elapsed: replicas start, load the model"
        in Tally(1, started=time.monotonic()).line()
    )


def test_without_a_terminal_one_line_per_interval() -> None:
    stream = io.StringIO()
    view = ProgressView(Tally(2, started=time.monotonic()), interval_s=30.0, stream=stream)

    for _ in range(50):
        view.update()
    view.close()

    assert stream.getvalue().count("progress: ") == 2  # the first and the last


def test_what_does_not_fit_is_left_out_but_never_the_counts_and_the_eta() -> None:
    tally = half_way(total=10_000_000, clips=1_234_567, failed=12_345)

    lines = [tally.short_line(columns) for columns in (80, 69, 50, 30, 1)]

    assert "audio-s/s" in lines[0]
    assert "12345 failed" in lines[2]
    for columns, line in zip((80, 69, 50), lines, strict=False):
        assert len(line) <= columns
    for line in lines:
        assert line.startswith("1234567/10000000  ")
        assert re.search(r"ETA \d+:\d\d:\d\d$", line)


@pytest.mark.parametrize(
    "tally",
    [half_way(), half_way(total=10_000_000, clips=1_234_567, failed=12_345, audio_s=1e7)],
)
def test_on_a_terminal_of_80_columns_bar_and_eta_are_whole(
    tally: Tally, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()

    view = ProgressView(tally, interval_s=30.0, stream=stream)
    view.update()
    view.close()

    assert "progress: " not in stream.getvalue()
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "\n", stream.getvalue())
    shown = [line for line in re.split(r"[\r\n]+", "".join(plain.split("\n"))) if line.strip()]
    line = shown[-1]
    assert Console().width == 80
    assert len(line) <= 80
    assert line.count("━") + line.count("╺") + line.count("╸") >= 10
    assert re.search(r"ETA \d+:\d\d:\d\d", line), line
