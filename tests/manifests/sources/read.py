"""Rows of a table that a test writes."""

from pathlib import Path
from typing import Any

from manifests.sources.options import Reading
from manifests.sources.rows import SourceRow
from manifests.sources.tables import Tables


def rows_of(
    path: Path, content: str | bytes | None = None, reading: Reading | None = None
) -> list[SourceRow]:
    """The rows of a file, which is written first where its content is given."""
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    with Tables([str(path)], reading=reading) as tables:
        return list(tables.rows())


def notes_of(path: Path, reading: Reading | None = None) -> list[str]:
    """What is said of a file that stands."""
    with Tables([str(path)], reading=reading) as tables:
        return tables.notes


def raws(rows: list[SourceRow]) -> list[dict[str, Any]]:
    return [row.raw for row in rows]


def messages(rows: list[SourceRow]) -> list[list[str]]:
    """What is wrong with each row."""
    return [[issue.message for issue in row.parse()[1]] for row in rows]
