"""Distributions and courses of runs whose numbers are known."""

from __future__ import annotations

import re

import numpy as np
import pytest

from pipeline.report.pictures import histogram, timeline


def test_histogram_counts_every_finite_value() -> None:
    shape = histogram(np.array([0.0, 0.0, 5.0, 10.0, np.nan, np.inf]), bins=10)
    assert shape is not None
    assert shape.counts == (2, 0, 0, 0, 0, 1, 0, 0, 0, 1)
    assert (shape.edges[0], shape.edges[-1], shape.median) == (0.0, 10.0, 2.5)
    assert shape.heights[0] == 100.0
    assert shape.heights[1] == 0.0


def test_histogram_of_one_value_is_one_bar_in_the_middle() -> None:
    shape = histogram(np.full(1000, -16.5))
    assert shape is not None
    assert shape.constant
    assert shape.counts == (0, 1000, 0)


def test_outliers_do_not_squeeze_a_large_histogram_and_still_count() -> None:
    values = np.concatenate([np.linspace(0, 1, 1000), [1e6, -1e6]])
    shape = histogram(values)
    assert shape is not None
    assert (sum(shape.counts), shape.below > 0, shape.above > 0) == (1002, True, True)
    assert shape.edges[-1] < 2


def test_histogram_of_nothing_is_none() -> None:
    assert histogram(np.array([])) is None
    assert histogram(np.array([np.nan])) is None


def test_timeline_sets_runs_side_by_side_and_leaves_out_the_time_between() -> None:
    day = 86_400.0
    created = np.array([10.0, 20.0, day + 5, day + 10])
    line = timeline(created, np.full(4, 30.0), np.array(["a", "a", "b", "b"]), {"a": 0.0, "b": day})
    assert line is not None
    assert line.total_s == 30.0
    assert [(s.run_id, round(s.left, 1), round(s.width, 1)) for s in line.spans] == [
        ("a", 0.0, 66.7),
        ("b", 66.7, 33.3),
    ]
    assert [round(s.startup, 1) for s in line.spans] == [33.3, 16.7]  # 10 s and 5 s of 30
    slice_s = line.total_s / len(line.speeds)
    assert sum(line.speeds) * slice_s == pytest.approx(120.0)


def test_timeline_without_run_records_starts_at_the_first_clip() -> None:
    line = timeline(np.array([100.0, 160.0]), np.ones(2), np.array(["a", "a"]), {})
    assert line is not None
    assert line.total_s == 60.0


def test_timeline_of_one_moment_and_of_nothing() -> None:
    line = timeline(np.array([5.0]), np.array([2.0]), np.array(["a"]), {})
    assert line is not None
    assert line.total_s == 1.0
    assert max(line.speed_heights) == 100.0
    assert timeline(np.array([]), np.array([]), np.array([], dtype=np.str_), {}) is None


@pytest.mark.parametrize("n", [3, 5000])
def test_growth_ends_at_the_top(n: int) -> None:
    created = np.linspace(0, 50, n)
    line = timeline(created, np.ones(n), np.full(n, "a"), {"a": 0.0})
    assert line is not None
    numbers = [float(v) for v in re.findall(r"-?[\d.]+", line.growth_path)]
    assert min(numbers) == 0.0
    assert max(numbers) == 100.0
    assert len(line.growth_path) < 6000
