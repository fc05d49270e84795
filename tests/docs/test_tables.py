"""The generated tables of the docs name everything and stay tables."""

import re

import pyarrow as pa
import pytest

from pipeline import ledger
from pipeline.audio.limits import QualityLimits
from pipeline.audio.measures_table import MEASURES
from pipeline.ledger.schema import SCORES_SCHEMA
from tests.docs.columns import columns_table
from tests.docs.measures import measures_table


def cells(table: str) -> list[list[str]]:
    """The rows below the header."""
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]


def test_the_table_of_measures_names_every_measure_and_every_limit() -> None:
    rows = cells(measures_table())
    assert [row[0].strip("`") for row in rows] == list(MEASURES)
    limits = [name for row in rows for name in re.findall(r"`(\w+)`", row[3])]
    assert sorted(limits) == sorted(QualityLimits.model_fields)
    by_name = {row[0]: row for row in rows}
    assert by_name["`dc_offset`"][3] == "`max_dc_offset` (either sign)"
    assert by_name["`peak_dbfs`"][1:] == ["dBFS", MEASURES["peak_dbfs"].text, "none"]


@pytest.mark.parametrize(
    ("folder", "schema"),
    [
        ("clips", ledger.CLIP_FIELDS),
        ("failed", ledger.FAILED_SCHEMA),
        ("scores", SCORES_SCHEMA),
    ],
)
def test_the_table_of_columns_follows_the_schema(folder: str, schema: pa.Schema) -> None:
    rows = cells(columns_table(folder))
    assert [row[0].strip("`") for row in rows] == list(schema.names)
    assert all(len(row) == 4 and row[3] for row in rows)
    for row, field in zip(rows, schema, strict=True):
        assert row[1].endswith(", nullable") == field.nullable
