"""What a fault costs, as the test that causes it has measured it: for `docs/reliability.md`.

A test declares its fault with `@fault(...)` and tells its `outcome` how it ended. That is compared
with `outcomes.json`, which `make faults-table` writes; the page is made of both.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pytest

from pipeline.ledger import read_clips, read_dead_letters
from pipeline.ledger.verify import verify
from pipeline.storage import Storage, open_storage
from tests.errors.case import pattern

STORED = Path(__file__).with_name("outcomes.json")
WRITE = "MUSICGEN_WRITE_FAULTS"
"""While this variable is set, tests write down what they measure instead of comparing it."""

Rows = Collection[str] | Collection[tuple[str, int]]


@dataclass(frozen=True)
class Fault:
    """What a test does to a run.

    Attributes:
        key: Kind and name, as in "store/busy".
        what: The fault in words.
        when: What the run was doing, or how long it lasted.
    """

    key: str
    what: str
    when: str


@dataclass(frozen=True)
class Measured:
    """How a fault ended.

    Attributes:
        rows: Rows and takes that were wanted.
        lost: Of those, how many are neither a clip nor a dead letter in the end.
        doubled: Clips that stand a second time.
        letters: Of the rows, how many stand as dead letters.
        redone_at_most: Clips that were begun and had to be made again: the limit that holds.
        exits: Exit codes of the commands, in their order.
        words: What is said of it; "…" stands for anything.
    """

    rows: int
    lost: int
    doubled: int
    letters: int
    redone_at_most: int
    exits: list[int | str]
    words: str


def fault(key: str, what: str, when: str) -> pytest.MarkDecorator:
    """Declares the fault that a test causes. The page reads its arguments from the source: they are
    literals, or names of texts of the same file."""
    return pytest.mark.fault(Fault(key, what, when))


@dataclass
class Outcome:
    """Gathers how one fault ended."""

    fault: Fault
    admissions: Admissions
    words: str = ""
    is_recorded: bool = False

    def told(self, says: str, said: str) -> None:
        """What people are told: `said` must match `says`, in which "…" stands for anything."""
        assert pattern(says).search(said), said
        self.words = says

    def ended(
        self,
        output: str | Storage,
        wanted: Rows,
        *,
        exits: Sequence[int | str],
        letters: Collection[str] = (),
        admitted: int | None = None,
        redone_at_most: int = 0,
    ) -> None:
        """Counts what stands in the end and compares it with what is stored.

        Args:
            output: The output, which `verify` must find whole.
            wanted: Ids of rows with one take each, or pairs of id and take.
            exits: Exit codes of the commands; "killed" for one that had no chance to have any.
            letters: Ids of the rows that must stand as dead letters.
            admitted: Clips that were begun in all; counted where runs were in this process.
            redone_at_most: How many of them may have been begun in vain.
        """
        storage = output if isinstance(output, Storage) else open_storage(output)
        problems = [str(problem) for problem in verify(storage).problems]
        assert problems == []
        names = [(each, 0) if isinstance(each, str) else each for each in wanted]
        clips = read_clips(storage, ["id", "take"]).to_pylist()
        made = Counter((row["id"], row["take"]) for row in clips)
        failed = set(read_dead_letters(storage)["id"].to_pylist())
        assert failed == set(letters)
        assert made.keys() <= set(names), "clips that nobody wanted"
        redone = (self.admissions.n if admitted is None else admitted) - made.total()
        assert redone <= redone_at_most, f"{redone} clips were made again"
        self._compare(
            Measured(
                rows=len(names),
                lost=sum(name not in made and name[0] not in failed for name in names),
                doubled=made.total() - len(made),
                letters=len(failed),
                redone_at_most=redone_at_most,
                exits=list(exits),
                words=self.words,
            )
        )

    def _compare(self, measured: Measured) -> None:
        stored = read_stored()
        self.is_recorded = True
        if os.environ.get(WRITE):
            stored[self.fault.key] = measured
            write_stored(stored)
            return
        before = stored.get(self.fault.key)
        assert measured == before, (
            f"fault {self.fault.key}: measured {measured}, stored {before}; where the change is "
            "meant, `make faults-table` stores it and writes the page"
        )


class Admissions(logging.Handler):
    """Counts clips that enter an engine of this process."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.n = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.n += record.getMessage().startswith("admitted ")


@dataclass
class Outcomes:
    """The outcomes of a test, by key."""

    by_key: dict[str, Outcome] = field(default_factory=dict)

    def __getitem__(self, key: str) -> Outcome:
        return self.by_key[key]


@pytest.fixture
def admissions() -> Iterator[Admissions]:
    """Clips that runs in this process begin during the test."""
    counter, logger = Admissions(), logging.getLogger("pipeline.replica.worker")
    level = logger.level
    logger.addHandler(counter)
    logger.setLevel(logging.INFO)
    yield counter
    logger.setLevel(level)
    logger.removeHandler(counter)


@pytest.fixture
def outcomes(request: pytest.FixtureRequest, admissions: Admissions) -> Outcomes:
    """For a test that declares several faults."""
    faults = [mark.args[0] for mark in request.node.iter_markers("fault")]
    return Outcomes({each.key: Outcome(each, admissions) for each in faults})


@pytest.fixture
def outcome(outcomes: Outcomes) -> Outcome:
    """For a test that declares one fault."""
    (only,) = outcomes.by_key.values()
    return only


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Iterator[object]:
    """A test that declares a fault must tell its outcome."""
    result = yield
    if pyfuncitem.get_closest_marker("fault"):
        found = pyfuncitem.funcargs.get("outcomes") or Outcomes()
        told = [key for key, each in found.by_key.items() if each.is_recorded]
        marks = [mark.args[0].key for mark in pyfuncitem.iter_markers("fault")]
        assert sorted(told) == sorted(marks), "a declared fault has no outcome"
    return result


_LOCK = threading.Lock()


def read_stored() -> dict[str, Measured]:
    """What tests have measured, by the key of the fault."""
    if not STORED.exists():
        return {}
    return {key: Measured(**found) for key, found in json.loads(STORED.read_text()).items()}


def write_stored(outcomes: dict[str, Measured]) -> None:
    """Keeps them for the page and for the next run of the tests."""
    with _LOCK:
        rows = {key: asdict(outcomes[key]) for key in sorted(outcomes)}
        STORED.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
