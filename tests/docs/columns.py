"""The tables of the dataset's columns for the docs: `python -m tests.docs.columns` prints them."""

import pyarrow as pa

from pipeline.ledger.columns import CLIP_COLUMNS, FAILED_COLUMNS, SCORE_COLUMNS, Column

FOLDERS = {"clips": CLIP_COLUMNS, "failed": FAILED_COLUMNS, "scores": SCORE_COLUMNS}


def columns_table(folder: str) -> str:
    """Markdown: every column of a folder with its type, unit and meaning.

    Args:
        folder: "clips", "failed" or "scores".
    """
    lines = ["| column | type | unit | holds |", "|---|---|---|---|"]
    lines += [
        f"| `{column.name}` | {_type(column)} | {column.unit} | {column.text} |"
        for column in FOLDERS[folder]
    ]
    return "\n".join(lines) + "\n"


def _type(column: Column) -> str:
    name = "timestamp" if pa.types.is_timestamp(column.type) else str(column.type)
    return f"{name}, nullable" if column.nullable else name


if __name__ == "__main__":
    for name in FOLDERS:
        print(f"`{name}/`\n\n{columns_table(name)}")  # noqa: T201
