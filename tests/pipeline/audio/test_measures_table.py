"""The declaration of the measures, and what people see of it."""

from dataclasses import fields

import pytest

from pipeline.audio.limits import QualityLimits
from pipeline.audio.measures_table import MEASURES, AudioMeasures


def test_every_field_is_a_measure_with_words_of_its_own() -> None:
    assert list(MEASURES) == [field.name for field in fields(AudioMeasures)]
    assert all(name == measure.name for name, measure in MEASURES.items())
    for words in ("label", "text"):
        said = [getattr(measure, words) for measure in MEASURES.values()]
        assert all(said)
        assert len(set(said)) == len(said)


def test_only_a_loudness_may_be_missing_and_then_a_text_says_why() -> None:
    assert [name for name, m in MEASURES.items() if m.nullable] == [
        "loudness_lufs",
        "loudness_reason",
    ]
    assert [name for name, m in MEASURES.items() if m.kind is str] == ["loudness_reason"]


def test_a_unit_in_the_name_of_a_measure_is_the_unit_of_its_declaration() -> None:
    suffixes = {"dbfs": "dBFS", "dbtp": "dBTP", "lufs": "LUFS", "s": "s", "ratio": "share, 0 to 1"}
    for name, measure in MEASURES.items():
        assert measure.unit == suffixes.get(name.rpartition("_")[2], ""), name


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("loudness_lufs", -14.04, "-14.0 LUFS"),
        ("true_peak_dbtp", 0.25, "0.2 dBTP"),
        ("silence_ratio", 0.125, "12.5 %"),
        ("clip_ratio", 0.00125, "0.12 %"),
        ("dc_offset", 0.01, "+0.0100"),
        ("spectral_flatness", 0.5611, "0.561"),
        ("early_silence_s", 2.0, "2.0 s"),
    ],
)
def test_a_value_is_shown_with_its_unit(name: str, value: float, shown: str) -> None:
    assert MEASURES[name].show(value) == shown


def test_the_bounds_of_a_limit_are_those_of_its_declaration() -> None:
    schema = QualityLimits.model_json_schema()["properties"]
    for name, measure in MEASURES.items():
        for limit in measure.limits:
            number = next(
                kind for kind in schema[limit.name(name)]["anyOf"] if "null" not in str(kind)
            )
            assert (number.get("minimum"), number.get("maximum")) == (limit.ge, limit.le)
            assert schema[limit.name(name)]["description"] == limit.text
