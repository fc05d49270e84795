"""What people see while a run goes on."""

import io
import re
import time

import pytest

from pipeline.telemetry.progress import ProgressView, Tally, clock


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00:00"), (59.6, "0:01:00"), (3_725, "1:02:05"), (90_000, "25:00:00")],
)
def test_a_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_the_line_has_counts_speed_failures_and_eta() -> None:
    tally = Tally(40, clips=9, failed=1, audio_s=50.0, started=time.monotonic() - 100)

    assert re.fullmatch(
        r"10/40 takes, 9 clips, 50\.0 s of audio, 0\.50 audio-s/s, 1 failed, "
        r"0:01:40 elapsed, ETA 0:05:00",
        tally.line(),
    )


def test_before_the_first_commit_it_says_what_is_going_on() -> None:
    assert "replicas start, load the model" in Tally(40, started=time.monotonic()).line()


def test_without_a_terminal_one_line_per_interval() -> None:
    stream = io.StringIO()
    view = ProgressView(Tally(2, started=time.monotonic()), interval_s=30.0, stream=stream)

    for _ in range(50):
        view.update()
    view.close()

    assert stream.getvalue().count("progress: ") == 2  # the first and the last


def test_on_a_terminal_the_line_is_live() -> None:
    stream = Terminal()
    tally = Tally(2, started=time.monotonic())
    view = ProgressView(tally, interval_s=30.0, stream=stream)

    tally.clips = 2
    view.update()
    view.close()

    assert "2/2 takes, 2 clips" in stream.getvalue()
    assert "progress: " not in stream.getvalue()
