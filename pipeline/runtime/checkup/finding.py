"""What one check has found out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

State = Literal["ok", "note", "wrong"]
OK: State = "ok"
NOTE: State = "note"  # a run goes on without it
WRONG: State = "wrong"


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        check: What was looked at.
        state: ok, note or wrong.
        found: What is there, in one sentence.
        way_out: What helps, where something is wrong or missing.
        took_s: How long the check took.
        node: Address of the node of a cluster; empty for the machine of the command.
    """

    check: str
    state: State
    found: str
    way_out: str = ""
    took_s: float = 0.0
    node: str = ""

    def as_json(self) -> dict[str, Any]:
        """For programs, and from node to node."""
        return asdict(self) | {"took_s": round(self.took_s, 4)}


def from_json(facts: dict[str, Any]) -> Finding:
    """The finding that `as_json` wrote, here or on another machine."""
    return Finding(
        **{each.name: facts[each.name] for each in fields(Finding) if each.name in facts}
    )


def timed(checks: Iterable[Callable[[], Iterable[Finding]]]) -> Iterator[Finding]:
    """What the checks find, one after another; each finding knows how long it took."""
    for check in checks:
        begun = time.monotonic()
        for finding in check():
            now = time.monotonic()
            yield replace(finding, took_s=finding.took_s or now - begun)
            begun = now


def first_line(error: BaseException) -> str:
    """The class of an error and the first line of its text."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
