"""The manifest's extra columns on their way into a part: Arrow from end to end.

Arrow holds values that Python's types can't (times after the year 9999, nanoseconds, numbers of 76
digits), so a row's extra columns stay a table of one row until they are written.
"""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

NO_EXTRAS = pa.table({})


def append_extras(own: pa.Table, rows: Sequence[pa.Table], schema: pa.Schema) -> pa.Table:
    """The columns of a part.

    Args:
        own: The columns that are ours, a row per clip.
        rows: The extra columns of each clip, tables of one row.
        schema: Every column of the part; what neither has is null.
    """
    given = pa.concat_tables(rows, promote_options="permissive")
    for field in schema:
        if field.name in own.column_names:
            continue
        if field.name in given.column_names:
            column = given[field.name].cast(field.type)
        else:
            column = pa.chunked_array([pa.nulls(own.num_rows, field.type)])
        own = own.append_column(field, column)
    return own.select(schema.names)


def as_python(row: pa.Table) -> dict[str, Any]:
    """The extra columns of one clip for JSON: as Python has them, else as Arrow writes them."""
    return {name: _plain(row[name][0]) for name in row.column_names}


def _plain(scalar: pa.Scalar) -> Any:
    try:
        return scalar.as_py()
    except (OverflowError, ValueError):  # no Python value has that range or precision
        pass
    if isinstance(scalar, pa.StructScalar):
        return {name: _plain(value) for name, value in scalar.items()}
    if isinstance(scalar, pa.MapScalar):
        return [[_plain(value) for value in pair.values()] for pair in scalar.values]
    if isinstance(scalar, pa.ListScalar):
        return [_plain(value) for value in scalar.values]
    return scalar.cast(pa.string()).as_py()
