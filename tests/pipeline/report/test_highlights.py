"""Which clips a report picks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.ledger.schema import CLIP_FIELDS, FAILED_SCHEMA
from pipeline.report.highlights import (
    FLAGS,
    failure_groups,
    flagged,
    phrases,
    sample_rows,
    take_rows,
    worst_rows,
)

NOW = datetime(2026, 1, 2, tzinfo=UTC)
FINE = {
    "early_silence_s": 0.0, "silence_ratio": 0.0, "clip_ratio": 0.0, "loudness_lufs": -16.0,
    "spectral_flatness": 0.02, "dc_offset": 0.0, "qc_failed": None,
}  # fmt: skip


def clips(*rows: dict[str, Any]) -> pa.Table:
    names = ["clip_id", "id", "take", "prompt", "created_at", *FINE]
    schema = pa.schema([CLIP_FIELDS.field(name) for name in names])
    filled = [
        {"clip_id": f"{i:032x}", "id": f"row-{i}", "take": 0, "prompt": None, "created_at": NOW}
        | FINE
        | row
        for i, row in enumerate(rows)
    ]
    return pa.Table.from_pylist(filled, schema=schema)


def test_the_sample_depends_on_ids_and_seed_and_not_on_the_order_of_parts() -> None:
    table = clips(*[{}] * 500)
    backwards = table.take(pa.array(range(499, -1, -1)))
    ids = table.column("clip_id").to_pylist()
    sample = [ids[row] for row in sample_rows(table, 12, seed=1)]
    assert len(set(sample)) == 12
    assert sample == [ids[499 - row] for row in sample_rows(backwards, 12, seed=1)]
    assert sample != [ids[row] for row in sample_rows(table, 12, seed=2)]


def test_a_dataset_that_grows_keeps_most_of_its_sample() -> None:
    before = set(sample_rows(clips(*[{}] * 500), 12, seed=0))
    after = set(sample_rows(clips(*[{}] * 550), 12, seed=0))
    assert len(before & after) >= 8


def test_no_prompt_is_heard_twice_while_another_was_not_heard() -> None:
    prompts = ["common"] * 300 + ["rare", "odd"] + [None] * 3
    table = clips(*({"prompt": prompt} for prompt in prompts))
    strata = [prompt or f"row-{i}" for i, prompt in enumerate(prompts)]  # unprompted rows differ
    for seed in range(5):
        sample = sample_rows(table, 6, seed)
        assert sorted(strata[row] for row in sample) == sorted(set(strata))
        more = sample_rows(table, 10, seed)
        assert len(set(more)) == 10
        assert more[:6] == sample
        assert {strata[row] for row in more[6:]} == {"common"}


@pytest.mark.parametrize(("n", "size"), [(0, 0), (5, 5), (100, 30)])
def test_a_sample_is_never_larger_than_the_dataset(n: int, size: int) -> None:
    assert len(sample_rows(clips(*[{}] * 30), n, seed=0)) == size


@pytest.mark.parametrize(
    ("bad", "title", "phrase"),
    [
        ({"early_silence_s": 3.2}, "ends in silence", "3.2 s of silence at the end"),
        ({"silence_ratio": 0.75}, "mostly silent", "75% silent"),
        ({"clip_ratio": 0.02}, "clipped", "2.00% of samples clipped"),
        ({"loudness_lufs": -55.0}, "very quiet", "-55.0 LUFS"),
        ({"loudness_lufs": -3.0}, "very loud", "-3.0 LUFS"),
        ({"spectral_flatness": 0.56}, "noise-like", "as flat as noise (0.56)"),
        ({"dc_offset": -0.1}, "offset", "offset -0.100"),
    ],
)
def test_each_flag_finds_its_clip(bad: dict[str, float], title: str, phrase: str) -> None:
    table = clips({}, bad, {})
    found = flagged(table)
    assert {name: rows.tolist() for name, rows in found.items()} == {title: [1]}
    assert phrases(table.to_pylist()[1]) == [phrase]
    assert phrases(table.to_pylist()[0]) == []


def test_a_clip_without_loudness_is_neither_quiet_nor_loud() -> None:
    table = clips({"loudness_lufs": None})
    assert flagged(table) == {}
    assert phrases(table.to_pylist()[0]) == []


def test_every_flag_is_about_a_column_of_the_dataset() -> None:
    assert {flag.column for flag in FLAGS} <= set(CLIP_FIELDS.names)


def test_flagged_clips_come_worst_first() -> None:
    table = clips({"dc_offset": 0.03}, {"dc_offset": -0.3}, {"dc_offset": 0.1})
    assert flagged(table)["offset"].tolist() == [1, 2, 0]


def test_the_worst_take_turns_between_flags_and_are_not_repeated() -> None:
    flags = {"a": np.array([4, 7, 9]), "b": np.array([4, 2]), "c": np.array([1])}
    assert worst_rows(flags, limit=4) == [4, 1, 7, 2]
    assert worst_rows(flags, limit=99) == [4, 1, 7, 2, 9]
    assert worst_rows({}) == []


def test_takes_of_the_row_that_has_most_in_order() -> None:
    table = clips(
        {"id": "two", "take": 0}, {"id": "three", "take": 2}, {"id": "two", "take": 1},
        {"id": "three", "take": 0}, {"id": "one"}, {"id": "three", "take": 1},
    )  # fmt: skip
    assert take_rows(table, seed=0) == [3, 5, 1]
    assert take_rows(table, seed=0, limit=2) == [3, 5]


def test_of_a_take_made_twice_the_newest_counts() -> None:
    later = NOW + timedelta(hours=1)
    table = clips(
        {"id": "a", "take": 0, "created_at": later},
        {"id": "a", "take": 0},
        {"id": "a", "take": 1},
    )
    assert take_rows(table, seed=0) == [0, 2]


def test_no_takes_where_every_row_has_one() -> None:
    assert take_rows(clips({"id": "a"}, {"id": "a"}, {"id": "b"}), seed=0) == []
    assert take_rows(clips(), seed=0) == []


def letters(*rows: dict[str, Any]) -> pa.Table:
    base = dict.fromkeys(FAILED_SCHEMA.names) | {"source": "m.parquet"}
    return pa.Table.from_pylist(
        [base | {"row": i} | row for i, row in enumerate(rows)], schema=FAILED_SCHEMA
    )


def test_failures_are_grouped_by_class_and_stage_the_largest_first() -> None:
    missing = {"error_class": "Missing", "stage": "prepare", "message": "no such file"}
    nan = {"error_class": "NaN", "stage": "generate", "message": "NaN logits"}
    groups = failure_groups(letters(nan | {"id": "a"}, missing, missing | {"id": "c"}))
    assert [(g.error_class, g.stage, g.count) for g in groups] == [
        ("Missing", "prepare", 2),
        ("NaN", "generate", 1),
    ]
    assert groups[0].messages == (("no such file", 2, ("m.parquet row 1", "c")),)


def test_many_messages_are_cut_and_counted() -> None:
    rows = [
        {"error_class": "E", "stage": "prepare", "id": str(i), "message": f"m{i % 10}"}
        for i in range(60)
    ]
    (group,) = failure_groups(letters(*rows))
    assert (group.count, len(group.messages), group.n_other_messages) == (60, 4, 6)
    assert group.messages[0] == ("m0", 6, ("0", "10", "20", "30", "40"))


def test_no_failures_no_groups() -> None:
    assert failure_groups(FAILED_SCHEMA.empty_table()) == []


def test_what_was_kept_past_a_limit_comes_first_and_says_so() -> None:
    table = clips({"clip_ratio": 0.5}, {}, {"qc_failed": "clip_ratio 0.1 (qc.max_clip_ratio 0)"})
    flags = flagged(table)
    assert list(flags) == ["failed its checks", "clipped"]
    assert worst_rows(flags) == [2, 0]
    assert phrases(table.to_pylist()[2]) == ["failed QC: clip_ratio 0.1 (qc.max_clip_ratio 0)"]
