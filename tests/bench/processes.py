"""Processor time and memory of this process and of all that it starts, as Linux counts them."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
SAMPLE_S = 2.0


@dataclass(frozen=True)
class Process:
    """A process at one moment."""

    pid: int
    parent: int
    started: int
    """ticks since the machine started, which tells processes with equal pids apart"""
    cpu_s: float
    rss_bytes: int
    command: str


def proc_kb(file: Path, name: str) -> int:
    """One figure of a file of /proc; `ru_maxrss` would begin with that of the parent."""
    return sum(
        int(line.split()[1]) for line in file.read_text().splitlines() if line.startswith(name)
    )


def running() -> dict[int, Process]:
    """All processes of this machine, by pid."""
    found: dict[int, Process] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text()
            command = (
                (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            )
        except (FileNotFoundError, ProcessLookupError):
            continue
        fields = stat.rpartition(")")[2].split()
        cpu_s = (int(fields[11]) + int(fields[12])) / TICKS
        process = Process(
            int(folder.name),
            int(fields[1]),
            int(fields[19]),
            cpu_s,
            int(fields[21]) * PAGE,
            command,
        )
        found[process.pid] = process
    return found


def below(pid: int) -> list[Process]:
    """The processes that `pid` has started, and those that they have, as far as they run."""
    processes, todo, found = running(), [pid], []
    while todo:
        parent = todo.pop()
        children = [process for process in processes.values() if process.parent == parent]
        found += children
        todo += [process.pid for process in children]
    return found


@dataclass
class ProcessorTime:
    """What has been spent since it was made."""

    children: dict[tuple[int, int], Process] = field(default_factory=dict)
    looking_s: float = 0.0
    """what the looks themselves have taken, which does not count"""
    samples: list[tuple[float, float]] = field(default_factory=list)
    """moments in seconds since 1970, and what all processes have spent until then"""

    def look(self) -> None:
        """Reads the clocks of the processes that run now; ended ones keep their last reading."""
        began_s = time.thread_time()
        self.children |= {(each.pid, each.started): each for each in below(os.getpid())}
        self.looking_s += time.thread_time() - began_s
        spent_s = time.process_time() - self.looking_s
        spent_s += sum(each.cpu_s for each in self.children.values())
        self.samples.append((time.time(), spent_s))

    def between(self, began: float, ended: float) -> float:
        """What was spent between two moments."""
        moments, spent_s = zip(*self.samples, strict=True)
        return float(np.interp(ended, moments, spent_s) - np.interp(began, moments, spent_s))


@contextmanager
def processor_time() -> Iterator[ProcessorTime]:
    """Counts until the end of the context."""
    spent, over = ProcessorTime(), threading.Event()

    def watch() -> None:
        while not over.wait(SAMPLE_S):
            spent.look()

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        yield spent
    finally:
        over.set()
        watching.join()
        spent.look()
