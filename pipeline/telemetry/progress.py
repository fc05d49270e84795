"""Progress of a run for people: a live line on a terminal, else one plain line per interval."""

import sys
import time
from dataclasses import dataclass, field
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column

from pipeline.telemetry.timing import RunTimes
from pipeline.telemetry.words import clock, counted

NARROWEST_BAR = 10  # columns; what does not fit beside it is left out of the line


@dataclass
class Tally:
    """Counts of a run so far; all of them are of committed rows.

    Attributes:
        aside: Takes that were made, judged and not kept.
        is_replayed: Whether Ray sent a task again, so that statuses may have been lost and the
            parts have to be counted at the end.
    """

    total: int
    clips: int = 0
    failed: int = 0
    aside: int = 0
    audio_s: float = 0.0
    started: float = 0.0  # monotonic seconds
    times: RunTimes = field(default_factory=RunTimes)
    is_replayed: bool = False

    @property
    def ended(self) -> int:
        """Clips that need no more work."""
        return self.clips + self.failed + self.aside

    @property
    def left(self) -> int:
        """Clips that are neither made nor failed."""
        return self.total - self.ended

    @property
    def wall_s(self) -> float:
        """Seconds since the start of the run."""
        return time.monotonic() - self.started

    @property
    def working_s(self) -> float:
        """Seconds since a clip first entered an engine, so without the start-up; 0 before that."""
        first = self.times.first_admission
        return 0.0 if first is None else max(0.0, time.time() - first)

    @property
    def rate(self) -> float:
        """Seconds of audio per second since the first admission."""
        return self.audio_s / self.working_s if self.working_s > 0 else 0.0

    @property
    def eta_s(self) -> float | None:
        """Estimated seconds until the last clip, from the clips per second since the first
        admission; None before the first commit."""
        if not self.ended or not self.working_s:
            return None
        return self.left * self.working_s / self.ended

    @property
    def eta(self) -> str:
        """The same as a clock; ? while unknown."""
        return "?" if self.eta_s is None else clock(self.eta_s)

    def line(self) -> str:
        """The counts in a sentence."""
        if not self.ended:
            return (
                f"0 of {counted(self.total, 'clip')}, {clock(self.wall_s)} elapsed: replicas "
                "start, load the model and fill their first part"
            )
        aside = f"{self.aside} set aside, " if self.aside else ""
        return (
            f"{self.clips} of {counted(self.total, 'clip')} made, {self.failed} failed, "
            f"{aside}{self.left} left, {self.audio_s:.1f} s of audio, {self.rate:.2f} audio-s/s, "
            f"{clock(self.wall_s)} elapsed, ETA {self.eta}"
        )

    def short_line(self, columns: int) -> str:
        """What fits into so many columns: the counts and the ETA always, the rest as it fits."""
        if not self.ended:
            return f"0/{self.total}  starting  {clock(self.wall_s)}  ETA {self.eta}"
        parts = [
            f"{self.ended if self.aside else self.clips}/{self.total}",
            f"{self.failed} failed" if self.failed else "",
            f"{self.rate:.2f} audio-s/s",
            clock(self.wall_s),
            f"ETA {self.eta}",
        ]
        for optional in (3, 2, 1):
            if len("  ".join(filter(None, parts))) > columns:
                parts[optional] = ""
        return "  ".join(filter(None, parts))


@dataclass
class ScanTally:
    """How far the scan of a manifest has come, in rows."""

    total: int
    ended: int = 0
    started: float = field(default_factory=time.monotonic)

    def line(self) -> str:
        """The counts in a sentence."""
        wall_s = time.monotonic() - self.started
        rows = counted(self.total, "row")
        if not self.ended:
            return f"0 of {rows} scanned, {clock(wall_s)} elapsed: parts are read first"
        rate = self.ended / wall_s if wall_s > 0 else 0.0
        return f"{self.ended} of {rows} scanned, {rate:.0f} rows/s, {clock(wall_s)} elapsed"

    def short_line(self, columns: int) -> str:
        """What fits into so many columns."""
        line = self.line()
        return line if len(line) <= columns else f"{self.ended}/{self.total} rows scanned"


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

    def short_line(self, columns: int) -> str:
        """What fits into so many columns of a terminal."""
        ...


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
                BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=NARROWEST_BAR)),
                TextColumn("{task.description}", table_column=Column(no_wrap=True)),
                console=Console(file=self._stream),
                expand=True,
            )
            self._task = self._live.add_task("", total=tally.total)
            self._live.start()
            self.update()

    def update(self) -> None:
        """Brings what is shown up to date, where it is time to."""
        if self._live is not None:
            room = self._live.console.width - NARROWEST_BAR - 1
            line = self._tally.short_line(room)
            self._live.update(self._task, completed=self._tally.ended, description=line)
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
