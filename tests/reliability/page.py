"""The tables of `docs/reliability.md`: what tests declare, and what they have measured.

`make faults-table` runs the tests, which write down what they measure, and then this.
"""

import sys

from tests.reliability.declared import ROOT, Declared, declared_faults
from tests.reliability.outcomes import Measured, read_stored, write_stored

PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- faults: begin, made by `make faults-table` -->", "<!-- faults: end -->"
TITLES = {
    "process": "Processes and nodes",
    "store": "Object stores",
    "disk": "Disks",
    "data": "What is written, and the manifest",
    "writers": "Writers, clocks, late uploads",
    "rows": "Rows and references",
}
HEAD = (
    "| what happens | when | rows | lost | doubled | dead letters | made again | exit code "
    "| what is said | test |\n|---|---|---|---|---|---|---|---|---|---|"
)


def faults_tables() -> str:
    """The part of the page between its two marks."""
    declared, measured = declared_faults(), read_stored()
    kinds = {key.partition("/")[0] for key in declared}
    assert kinds == TITLES.keys(), kinds
    tables = []
    for kind, title in TITLES.items():
        keys = [key for key in declared if key.startswith(f"{kind}/")]
        rows = [_row(declared[key], measured[key]) for key in sorted(keys)]
        tables.append("\n".join([f"## {title}\n\n{HEAD}", *rows]))
    return "\n\n".join(tables)


def _row(declared: Declared, found: Measured) -> str:
    limit = f"at most {found.redone_at_most}" if found.redone_at_most else "0"
    cells = [
        declared.fault.what,
        declared.fault.when,
        *(str(n) for n in (found.rows, found.lost, found.doubled, found.letters)),
        limit,
        ", then ".join(map(str, found.exits)),
        _code(found.words) if found.words else "nothing",
        f"`{declared.test}`" + (" (`make test-long`)" if declared.is_long else ""),
    ]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _code(words: str) -> str:
    return f"`` {words} ``" if "`" in words else f"`{words}`"


def with_tables(page: str) -> str:
    """The page with the tables as they must be."""
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n\n{faults_tables()}\n\n{END}{tail}"


if __name__ == "__main__":
    stored = read_stored()
    write_stored({key: stored[key] for key in stored.keys() & declared_faults().keys()})
    PAGE.write_text(with_tables(PAGE.read_text()))
    sys.stdout.write(f"{PAGE} holds the tables\n")
