"""The tables of `docs/reference/errors.md`, made from the tests' own by `make errors-table`.

The words that the tests compare are the words that people read, so the page cannot lie.
"""

import re
import sys
from pathlib import Path

from tests.errors.commands import CLUSTER, MANIFESTS, MARKS, MODELS, OUTPUTS, SETTINGS
from tests.errors.lines import LINES
from tests.errors.rows import BAD
from tests.errors.tables import SWEEPS, TABLES

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "errors.md"
BEGIN, END = "<!-- errors: begin, made by `make errors-table` -->", "<!-- errors: end -->"


def errors_table() -> str:
    """The part of the page between its two marks."""
    rows = [(row.what, row.says, row.error_class) for row in BAD]
    lines = [(line.what, line.says, "2") for line in LINES]
    tables = [
        _table("Rows: dead letters in `failed/`, exit code 3", "class", rows),
        _table("Lines of JSONL and CSV: `manifest check` and `manifest build`", "exit", lines),
    ]
    for title, commands in (
        ("Manifests", MANIFESTS),
        ("Tables for `manifest build` and `manifest check`", TABLES),
        ("Sweeps", SWEEPS),
        ("Models", MODELS),
        ("Outputs", OUTPUTS),
        ("Settings and flags", SETTINGS),
        ("Marks", MARKS),
        ("Resources", CLUSTER),
    ):
        cases = [(command.what, command.says, str(command.code)) for command in commands]
        tables.append(_table(title, "exit", cases))
    return "\n\n".join(tables)


def _table(title: str, last: str, cases: list[tuple[str, str, str]]) -> str:
    rows = [f"| {_cell(what)} | {_code(says)} | {ends} |" for what, says, ends in cases]
    head = f"## {title}\n\n| what is wrong | what it says | {last} |\n|---|---|---|"
    return "\n".join([head, *rows])


def _code(says: str) -> str:
    text = _cell(re.sub(r"\{([^{}]*)\}", r"\1", says)).replace("\n", " ")
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def with_table(page: str) -> str:
    """The page with the tables as they must be."""
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n\n{errors_table()}\n\n{END}{tail}"


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text()))
    sys.stdout.write(f"{PAGE} holds the tables\n")
