"""What a case of the error table is, and where it plays."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from pipeline.cli.root import main

ANYTHING = "…"


@dataclass
class Place:
    """A folder of its own for one case; `use` fills it with what is bad."""

    folder: Path
    monkeypatch: pytest.MonkeyPatch
    request: pytest.FixtureRequest

    def __getitem__(self, name: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


@dataclass(frozen=True)
class Row:
    """A manifest row that can't be made, among rows that can.

    Attributes:
        what: The bad input in words, as docs/reference/errors.md says it.
        columns: Of the row; its id is the case's `id`.
        says: The dead letter's message behind `FILE row N (id=ID): `. "…" stands for anything.
        error_class: Of the dead letter.
    """

    what: str
    id: str
    columns: dict[str, Any]
    says: str
    error_class: str


@dataclass(frozen=True)
class Line:
    """A line of a JSONL or CSV manifest that `manifest check` reports with all others."""

    what: str
    text: str
    says: str


@dataclass(frozen=True)
class Command:
    """A command that can't be carried out.

    Attributes:
        what: The bad input in words.
        arguments: Of `musicgen-batch`; `{name}` is a file in the case's folder.
        says: What stderr says, with `{name}` and "…" as above.
        code: Its exit code.
        use: Makes what is bad.
    """

    what: str
    arguments: str
    says: str
    code: int = 2
    use: Callable[[Place], object] | None = None


def fill(text: str, folder: Path) -> str:
    """`{name}` in an argument or a message becomes a file of that name in the case's folder."""
    return re.sub(r"\{([^{}]*)\}", lambda found: str(folder / found[1]), text)


def pattern(says: str) -> re.Pattern[str]:
    """What matches a message in which "…" stands for anything."""
    return re.compile(".*".join(re.escape(part) for part in says.split(ANYTHING)), re.DOTALL)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Place:
    """A folder with a good manifest, on a machine without credentials and network."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    rows = pa.table({"id": ["a"], "prompt": ["a song"], "duration_s": [0.1]})
    pq.write_table(rows, tmp_path / "good.parquet")
    return Place(tmp_path, monkeypatch, request)


def check(command: Command, place: Place) -> None:
    if command.use is not None:
        command.use(place)
    standing = sorted(place.folder.rglob("*"))

    result = CliRunner().invoke(main, fill(command.arguments, place.folder).split(" "))

    assert result.exit_code == command.code, result.output
    assert pattern(fill(command.says, place.folder)).search(result.output), result.output
    assert "Traceback" not in result.output
    assert "hunter22" not in result.output  # the password of all cases
    made = set(place.folder.rglob("*")) - set(standing)
    assert not [path for path in made if path.suffix in (".flac", ".parquet", ".tmp")]
