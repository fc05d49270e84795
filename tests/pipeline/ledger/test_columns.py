"""One declaration of the columns: the Arrow schemas and the typed rows agree with it."""

from dataclasses import fields
from types import UnionType
from typing import get_args, get_type_hints

import pyarrow as pa
import pytest

from pipeline import ledger
from pipeline.audio.measures_table import MEASURES, AudioMeasures
from pipeline.ledger.clip_row import (
    ClipRow,
    ClipScores,
    DeadLetterRow,
    Provenance,
    ScoreRow,
)
from pipeline.ledger.columns import (
    CLIP_COLUMNS,
    FAILED_COLUMNS,
    SCORE_COLUMNS,
    SCORERS_TYPE,
    Column,
)

FILLED_BY_THE_WRITER = {
    *("audio_path", "audio_member", "audio_format", "audio_bytes", "audio_sha256"),
    *("c2pa_sidecar", "c2pa_sidecar_sha256"),
}
GROUPS = {"measures", "scores", "provenance"}
CAME_LATER = {"bits_depend_on"}  # every new row has it, and it is null in earlier parts


def kinds_of(*rows: type) -> dict[str, tuple[type, bool]]:
    """The fields of the dataclasses: their type, and whether they may be None."""
    found = {}
    for row in rows:
        hints = get_type_hints(row)
        for field in fields(row):
            kind = hints[field.name]
            kinds = set(get_args(kind)) if isinstance(kind, UnionType) else {kind}
            optional = type(None) in kinds
            found[field.name] = (*(kinds - {type(None)}), optional)
    return found


def arrow_type(kind: type) -> set[pa.DataType]:
    return {
        "Mapping": {column.type for column in CLIP_COLUMNS if pa.types.is_struct(column.type)},
        "str": {pa.string()},
        "bool": {pa.bool_()},
        "float": {pa.float64()},
        "int": {pa.int32(), pa.int64()},
        "datetime": {pa.timestamp("us", tz="UTC")},
        "list": {SCORERS_TYPE},
    }[kind.__name__]


@pytest.mark.parametrize(
    ("columns", "rows"),
    [
        (CLIP_COLUMNS, (ClipRow, AudioMeasures, ClipScores, Provenance)),
        (FAILED_COLUMNS, (DeadLetterRow,)),
        (SCORE_COLUMNS, (ScoreRow,)),
    ],
)
def test_a_typed_row_has_the_columns_with_their_types(
    columns: tuple[Column, ...], rows: tuple[type, ...]
) -> None:
    declared = {c.name: c for c in columns if c.name not in FILLED_BY_THE_WRITER}
    typed = {name: kind for name, kind in kinds_of(*rows).items() if name not in GROUPS}
    assert typed.keys() == declared.keys()
    for name, (kind, optional) in typed.items():
        assert declared[name].type in arrow_type(kind), name
        assert declared[name].nullable == (optional or name in CAME_LATER), name


def test_every_measure_is_a_column() -> None:
    assert MEASURES.keys() <= set(ledger.CLIP_FIELDS.names)


@pytest.mark.parametrize("columns", [CLIP_COLUMNS, FAILED_COLUMNS, SCORE_COLUMNS])
def test_every_column_is_explained_in_a_sentence_and_its_unit_agrees_with_its_name(
    columns: tuple[Column, ...],
) -> None:
    names = [column.name for column in columns]
    assert len(set(names)) == len(names)
    for column in columns:
        assert column.text.endswith("."), column.name
        for ending, unit in (("_s", "s"), ("_hz", "Hz"), ("_db", "dB"), ("_bytes", "bytes")):
            assert not column.name.endswith(ending) or column.unit == unit, column.name


def test_the_words_stay_out_of_the_files() -> None:
    for schema in (ledger.CLIP_FIELDS, ledger.FAILED_SCHEMA):
        assert all(field.metadata is None for field in schema)
        assert schema.metadata is None
