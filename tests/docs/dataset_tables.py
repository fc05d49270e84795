"""The generated tables of the docs: `make columns-table` writes them.

Columns come from `pipeline.ledger.columns`, measures from `pipeline.audio.measures_table`.
"""

import sys
from collections.abc import Callable
from pathlib import Path

from tests.docs.columns import columns_table
from tests.docs.measures import measures_table

DOCS = Path(__file__).parents[2] / "docs"
BEGIN = "<!-- {}: begin, made by `make columns-table` -->"
END = "<!-- {}: end -->"
# Page to the tables that stand on it, by the name in their markers.
TABLES: dict[str, dict[str, Callable[[], str]]] = {
    "dataset-schema.md": {
        "clips": lambda: columns_table("clips"),
        "failed": lambda: columns_table("failed"),
    },
    "audio-and-qc.md": {"measures": measures_table},
    "scores.md": {"scores": lambda: columns_table("scores")},
}


def with_tables(name: str, page: str) -> str:
    """The page called `name` with each table as it must be."""
    for table, make in TABLES[name].items():
        begin, end = BEGIN.format(table), END.format(table)
        head, mark, rest = page.partition(begin)
        assert mark, f"{name} has no marker for the table {table}"
        tail = rest.partition(end)[2]
        page = f"{head}{begin}\n\n{make()}\n{end}{tail}"
    return page


if __name__ == "__main__":
    for name in TABLES:
        path = DOCS / name
        path.write_text(with_tables(name, path.read_text()))
        sys.stdout.write(f"{path} holds its tables\n")
