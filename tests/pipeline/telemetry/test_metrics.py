"""What replicas say to Prometheus and to their logs."""

import re
from pathlib import Path

import pytest

from pipeline.telemetry.logfmt import line
from pipeline.telemetry.metrics import METRICS, Increments, Sample


def test_counters_are_told_as_growth_and_gauges_as_they_are() -> None:
    increments = Increments()
    broken = (("stage", "prepare"), ("error_class", "BadReferenceError"))

    def told(*samples: Sample) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        return {(s.name, s.tags): s.value for s in increments.since_last(list(samples))}

    first = told(Sample("clips", 3), Sample("slots_busy", 2), Sample("failures", 1, broken))
    second = told(Sample("clips", 5), Sample("slots_busy", 2), Sample("failures", 1, broken))
    third = told(Sample("clips", 5), Sample("slots_busy", 0))

    assert first == {("clips", ()): 3, ("slots_busy", ()): 2, ("failures", broken): 1}
    assert second == {("clips", ()): 2, ("slots_busy", ()): 2}
    assert third == {("slots_busy", ()): 0}


def test_series_of_one_name_are_counted_apart() -> None:
    increments = Increments()
    model, commit = (("kind", "model"),), (("kind", "commit"),)
    list(increments.since_last([Sample("work_seconds", 2.0, model)]))

    told = list(
        increments.since_last(
            [Sample("work_seconds", 2.5, model), Sample("work_seconds", 1.0, commit)]
        )
    )

    assert told == [Sample("work_seconds", 0.5, model), Sample("work_seconds", 1.0, commit)]


def test_names_carry_no_kind_and_units_where_there_are_any() -> None:
    """Ray adds `ray_` before and `_total` behind a counter."""
    for metric in METRICS:
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", metric.name)
        assert not metric.name.endswith("_total")
        assert metric.description.endswith(".")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("rain", "id=rain"),
        ("rain and wind", 'id="rain and wind"'),
        ('a="b"', r'id="a=\"b\""'),
        ("", 'id=""'),
        ("café", "id=café"),
        ("two\nlines", r'id="two\nlines"'),
        (1.23456, "id=1.235"),
    ],
)
def test_a_log_line_can_be_taken_apart_whatever_an_id_holds(value: object, said: str) -> None:
    assert line("finished", id=value, take=None) == f"finished {said}"


def test_the_operations_page_names_every_metric() -> None:
    page = (Path(__file__).parents[3] / "docs" / "operations.md").read_text()
    told = page.partition("| `ray_musicgen_batch_…` |")[2].partition("\n\n")[0]
    names = {f"{m.name}_total" if m.kind == "counter" else m.name for m in METRICS}
    tags = {"stage", "error_class"}
    assert set(re.findall(r"`(\w+)`", told)) - tags - {"kind"} == names
    used = re.findall(r"ray_musicgen_batch_([a-z_]+)\{", page)
    assert used
    assert set(used) <= names
