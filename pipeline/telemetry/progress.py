"""Progress of a run for people: a live line on a terminal, else one plain line per interval."""

import sys
import time
from dataclasses import dataclass, field
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn

from pipeline.telemetry.timing import RunTimes


@dataclass
class Tally:
    """Counts of a run so far; all of them are of committed rows."""

    total: int
    clips: int = 0
    failed: int = 0
    audio_s: float = 0.0
    started: float = 0.0  # monotonic seconds
    times: RunTimes = field(default_factory=RunTimes)

    @property
    def ended(self) -> int:
        """Takes that need no more work."""
        return self.clips + self.failed

    @property
    def wall_s(self) -> float:
        """Seconds since the start of the run."""
        return time.monotonic() - self.started

    @property
    def rate(self) -> float:
        """Seconds of audio generated per second since the start of the run."""
        return self.audio_s / self.wall_s if self.wall_s > 0 else 0.0

    @property
    def eta_s(self) -> float | None:
        """Estimated seconds until the last row, from the rows per second so far."""
        if not self.ended:
            return None
        return (self.total - self.ended) * self.wall_s / self.ended

    def line(self) -> str:
        """The counts in a sentence."""
        if not self.ended:
            return (
                f"0/{self.total} takes, {clock(self.wall_s)} elapsed: replicas start, load the "
                "model and fill their first part"
            )
        eta = "?" if self.eta_s is None else clock(self.eta_s)
        return (
            f"{self.ended}/{self.total} takes, {self.clips} clips, "
            f"{self.audio_s:.1f} s of audio, {self.rate:.2f} audio-s/s, "
            f"{self.failed} failed, {clock(self.wall_s)} elapsed, ETA {eta}"
        )


@dataclass
class ScanTally:
    """How far the scan of a manifest has come, in rows."""

    total: int
    ended: int = 0
    started: float = field(default_factory=time.monotonic)

    def line(self) -> str:
        """The counts in a sentence."""
        wall_s = time.monotonic() - self.started
        if not self.ended:
            return f"0/{self.total} rows scanned, {clock(wall_s)} elapsed: parts are read first"
        rate = self.ended / wall_s if wall_s > 0 else 0.0
        return f"{self.ended}/{self.total} rows scanned, {rate:.0f} rows/s, {clock(wall_s)} elapsed"


class Shown(Protocol):
    """What a view shows."""

    @property
    def total(self) -> int:
        """What `ended` grows to."""
        ...

    @property
    def ended(self) -> int:
        """How much is done."""
        ...

    def line(self) -> str:
        """The counts in a sentence."""
        ...


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


class ProgressView:
    """Shows a tally. `update` may be called often: it prints one line per interval."""

    def __init__(self, tally: Shown, interval_s: float, stream: TextIO | None = None) -> None:
        self._tally, self._interval_s = tally, interval_s
        self._stream = stream or sys.stderr
        self._next_line = time.monotonic()
        self._live: Progress | None = None
        self._task = TaskID(0)
        if self._stream.isatty():
            self._live = Progress(
                SpinnerColumn(),
                BarColumn(),
                TextColumn("{task.description}"),
                console=Console(file=self._stream),
            )
            self._task = self._live.add_task("starting", total=tally.total)
            self._live.start()

    def update(self) -> None:
        """Brings what is shown up to date, where it is time to."""
        if self._live is not None:
            ended, line = self._tally.ended, self._tally.line()
            self._live.update(self._task, completed=ended, description=line)
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + self._interval_s
            self._print()

    def close(self) -> None:
        """Shows the final counts."""
        if self._live is not None:
            self.update()
            self._live.stop()
        else:
            self._print()

    def _print(self) -> None:
        self._stream.write(f"progress: {self._tally.line()}\n")
        self._stream.flush()
