"""Extra columns become columns of a part, and facts of a webdataset's JSON."""

import json
from datetime import date
from decimal import Decimal

import pyarrow as pa

from pipeline.ledger.extras import NO_EXTRAS, append_extras, as_python

LATE = pa.array([2**62]).view(pa.timestamp("us"))  # in the year 148110


def test_a_row_without_a_column_of_the_part_has_null_there() -> None:
    schema = pa.schema([("id", pa.string()), ("bpm", pa.int16()), ("late", pa.timestamp("us"))])
    own = pa.table({"id": ["a", "b"]})

    found = append_extras(own, [pa.table({"late": LATE})] * 2, schema)

    assert found.schema == schema
    assert found["bpm"].null_count == 2
    assert found["late"].combine_chunks().equals(pa.concat_arrays([LATE, LATE]))
    assert append_extras(own, [NO_EXTRAS] * 2, schema)["late"].null_count == 2


def test_values_without_a_python_type_are_told_as_arrow_writes_them() -> None:
    nested = pa.StructArray.from_arrays([LATE, pa.array([None], pa.string())], ["when", "note"])
    listed = pa.ListArray.from_arrays([0, 1], LATE)
    mapped = pa.MapArray.from_arrays([0, 1], ["end"], LATE)
    columns = {"at": LATE, "nested": nested, "listed": listed, "mapped": mapped}
    plain = pa.table({"n": [1], "day": [date(2026, 1, 2)], "price": [Decimal("1.50")]})

    told = as_python(pa.table(columns)) | as_python(plain)

    text = f"<value out of range: {2**62}>"
    assert told["at"] == text
    assert told["nested"] == {"when": text, "note": None}
    assert told["listed"] == [text]
    assert told["mapped"] == [["end", text]]
    assert json.loads(json.dumps(told, default=str))["day"] == "2026-01-02"
    assert as_python(NO_EXTRAS) == {}
