"""What a row may say, what is wrong with it where it may not, and how that is told."""

from typing import Any

import pytest

from manifests.schema import (
    BUILT_IN_DEFAULTS,
    GenerationDefaults,
    PromptRow,
    RowIssue,
    check_columns,
    effective,
    parse_row,
    resolve_uri,
)


def issues_of(raw: dict[str, Any]) -> list[RowIssue]:
    row, issues = parse_row(raw, source="m.parquet", row=17)
    assert (row is None) == bool(issues)
    return issues


def good(raw: dict[str, Any]) -> PromptRow:
    row, issues = parse_row(raw, source="m.parquet", row=0)
    assert row is not None, issues
    return row


BAD_VALUES = [
    # column, value, words of the rule
    ("duration_s", 45000, "exceeds 3600 s"),
    ("duration_s", 0, "must be more than 0 s"),
    ("duration_s", -1.5, "must be more than 0 s"),
    ("duration_s", "12", "is text, not a number"),
    ("duration_s", True, "is a boolean, not a number"),
    ("duration_s", float("inf"), "is not finite"),
    ("duration_s", [1.0], "is a list, not a number"),
    ("prompt", 5, "is an integer, not text"),
    ("prompt", "x" * 4001, "has 4001 characters, over the limit of 4000"),
    ("prompt", "\ud800", "half of a surrogate pair"),
    ("prompt", {"bytes": None, "path": "a"}, "is an object, not text"),
    ("id", "x" * 257, "over the limit of 256"),
    ("id", "a\x00b", "control characters"),
    ("id", "a\nb", "control characters"),
    ("id", True, "is a boolean, not text"),
    ("id", 1.5, "is a fraction, not text"),
    ("melody_uri", "x" * 4097, "over the limit of 4096"),
    ("melody_uri", "a\tb.wav", "control characters"),
    ("melody_audio", b"", "is empty (0 bytes)"),
    ("melody_audio", "UklGRg==", "is text, not the bytes of an audio file"),
    ("melody_audio", {"array": [0.0], "sampling_rate": 1}, "is an object, not the bytes"),
    ("seed", -1, "must be at least 0"),
    ("seed", 2**63, "exceeds 9223372036854775807"),
    ("seed", 1.5, "is a fraction, not a whole number"),
    ("seed", True, "is a boolean, not a whole number"),
    ("takes", 0, "must be at least 1"),
    ("takes", 1001, "exceeds 1000"),
    ("cfg_coef", -0.1, "must be at least 0"),
    ("cfg_coef", 101, "exceeds 100"),
    ("cfg_coef_beta", "5", "is text"),
    ("temperature", -1, "must be at least 0"),
    ("top_k", -1, "must be at least 0"),
    ("top_k", 2.5, "is a fraction"),
    ("top_p", 1.01, "exceeds 1"),
    ("use_sampling", 1, "is an integer, not true or false"),
    ("use_sampling", "yes", "is text, not true or false"),
]


@pytest.mark.parametrize(("column", "value", "rule"), BAD_VALUES)
def test_a_bad_value_is_one_issue_that_names_everything(column: str, value: Any, rule: str) -> None:
    (issue,) = issues_of({"prompt": "x", "id": "ab12", column: value})
    assert issue.column == column
    assert rule in issue.rule
    assert issue.way_out
    assert "m.parquet row 17" in issue.message
    assert f"{column}=" in issue.message
    assert len(issue.message) < 400
    assert issue.message.isprintable()


def test_the_message_reads_as_designed() -> None:
    (issue,) = issues_of({"id": "ab12", "prompt": "x", "duration_s": 45000})
    assert issue.message == (
        "m.parquet row 17 (id=ab12): duration_s=45000 exceeds 3600 s; "
        "shorten it, or split it into several rows"
    )


def test_all_errors_of_a_row_come_at_once() -> None:
    bad = {"duration_s": -1, "seed": "x", "top_p": 2, "melody_uri": "a", "melody_audio": b"a"}
    assert {issue.column for issue in issues_of(bad)} == {
        "duration_s",
        "seed",
        "top_p",
        "melody_audio",
    }


def test_a_row_needs_a_prompt_or_a_reference() -> None:
    for empty in ({}, {"prompt": None}, {"prompt": " \n"}, {"id": "a", "duration_s": 3}):
        (issue,) = issues_of(empty)
        assert issue.column == "prompt"
        assert "melody_uri" in issue.way_out
    for role in ("melody", "continuation", "style"):
        assert good({f"{role}_uri": "a.wav"}).references() == {role: "a.wav"}
        assert good({f"{role}_audio": b"RIFF"}).references() == {role: b"RIFF"}


@pytest.mark.parametrize("role", ["melody", "continuation", "style"])
def test_uri_and_bytes_of_one_reference_exclude_each_other(role: str) -> None:
    (issue,) = issues_of({f"{role}_uri": "a.wav", f"{role}_audio": b"RIFF"})
    assert f"stands beside {role}_uri" in issue.rule
    struct = {"bytes": b"RIFF", "path": "inner.wav"}
    assert issues_of({f"{role}_uri": "a.wav", f"{role}_audio": struct})


def test_what_data_frames_do_to_values_is_undone() -> None:
    nan = float("nan")
    row = good(
        {"id": 12, "prompt": "x", "seed": 3.0, "top_k": nan, "takes": nan, "melody_uri": nan}
    )
    assert row == PromptRow(id="12", prompt="x", seed=3)
    assert good({"prompt": "x", "duration_s": 3}).duration_s == 3.0
    assert isinstance(good({"prompt": "x", "duration_s": 3}).duration_s, float)


def test_hugging_face_audio_structs_stand_for_bytes_or_path() -> None:
    assert good({"melody_audio": {"bytes": b"RIFF", "path": "x"}}).references() == {
        "melody": b"RIFF"
    }
    assert good({"melody_audio": {"bytes": None, "path": "x.wav"}}).references() == {
        "melody": "x.wav"
    }
    assert good({"prompt": "a", "melody_audio": {"bytes": None, "path": None}}).references() == {}


@pytest.mark.parametrize("id", ["../../etc/passwd", "a/b", "café ☕", "x" * 256, "0"])
def test_ids_are_free_text_because_they_never_become_paths(id: str) -> None:
    assert good({"id": id, "prompt": "x"}).id == id


def test_limits_themselves_are_allowed() -> None:
    edge = {"duration_s": 3600, "seed": 2**63 - 1, "takes": 1000, "top_p": 1, "temperature": 0}
    row = good({"prompt": "x" * 4000, **edge})
    assert row.seed == 2**63 - 1


def test_an_invalid_row_without_usable_id_still_reports() -> None:
    (issue,) = issues_of({"id": ["a"], "prompt": "x"})
    assert issue.id is None
    (issue,) = issues_of({"id": "\ud800", "prompt": "x"})
    assert issue.id == "?"


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("promt", "prompt"),
        ("Prompt", "prompt"),
        (" prompt", "prompt"),
        ("prompts", "prompt"),
        ("duration", "duration_s"),
        ("durations", "duration_s"),
        ("melody_url", "melody_uri"),
        ("melody", "melody_uri"),
        ("continuation_path", "continuation_uri"),
        ("ID", "id"),
        ("top-k", "top_k"),
        ("cfgcoef", "cfg_coef"),
        ("speed", "seed"),
    ],
)
def test_a_column_that_looks_like_a_known_one_is_an_error_unless_listed(
    name: str, known: str
) -> None:
    (fault,) = check_columns(["prompt", "id", name])
    assert repr(name) in fault
    assert repr(known) in fault
    assert "extra_columns" in fault
    assert check_columns(["prompt", "id", name], extra_columns=[name]) == []


@pytest.mark.parametrize("name", ["genre", "bpm", "mood", "text", "split", "style_name", "ab"])
def test_other_columns_are_carried_through(name: str) -> None:
    assert check_columns(["prompt", name]) == []


def test_columns_that_can_not_be_right() -> None:
    (fault,) = check_columns(["prompt", "id", "id"])
    assert "'id' stands there 2 times" in fault
    (fault,) = check_columns(["prompt", ""])
    assert "column 2 has no name" in fault
    (fault,) = check_columns(["text", "genre"])
    assert "no column says what to make (columns: text, genre)" in fault
    (fault,) = check_columns(["prompt", "clip_id"], reserved=["clip_id", "prompt"])
    assert "'clip_id' is also a column of the output" in fault


@pytest.mark.parametrize(
    ("uri", "manifest", "whole"),
    [
        ("a.wav", "/data/m.parquet", "/data/a.wav"),
        ("../x/a.wav", "/data/set/m.parquet", "/data/x/a.wav"),
        ("../../../a.wav", "/data/m.parquet", "/a.wav"),
        ("/abs/a.wav", "/data/m.parquet", "/abs/a.wav"),
        ("s3://b/a.wav", "/data/m.parquet", "s3://b/a.wav"),
        ("a b/ü.wav", "s3://bucket/dir/m.parquet", "s3://bucket/dir/a b/ü.wav"),
        ("../a.wav", "s3://bucket/dir/m.parquet", "s3://bucket/a.wav"),
        ("../../../a.wav", "s3://bucket/dir/m.parquet", "s3://bucket/a.wav"),
        ("a.wav", "s3://bucket/m.parquet", "s3://bucket/a.wav"),
        ("a.wav", "file:///data/m.parquet", "file:///data/a.wav"),
        ("a.wav", "memory:///dir/m.parquet", "memory:///dir/a.wav"),
        ("https://host/a.wav", "s3://bucket/m.parquet", "https://host/a.wav"),
    ],
)
def test_relative_references_count_from_the_manifests_folder(
    uri: str, manifest: str, whole: str
) -> None:
    assert resolve_uri(uri, manifest) == whole


def test_null_inherits_and_the_row_goes_before_the_defaults() -> None:
    defaults = GenerationDefaults.model_validate({"duration_s": 4, "top_k": 9, "cfg_coef_beta": 5})
    params = effective(good({"prompt": "x", "top_k": 0, "cfg_coef": 1}), defaults)
    assert (params.duration_s, params.top_k, params.cfg_coef, params.cfg_coef_beta) == (4, 0, 1, 5)
    assert params.temperature == 1.0
    built_in = effective(good({"prompt": "x"}), BUILT_IN_DEFAULTS)
    assert built_in.as_identity() == {
        "duration_us": 10_000_000,
        "use_sampling": True,
        "top_k": 250,
        "top_p": 0.0,
        "temperature": 1.0,
        "cfg_coef": 3.0,
        "cfg_coef_beta": None,
        "extend_stride_s": None,
        "style_eval_q": None,
        "style_excerpt_s": None,
    }


@pytest.mark.parametrize(
    ("duration_s", "duration_us"),
    [(0.1, 100_000), (2.675, 2_675_000), (1e-9, 1), (0.0000005, 1), (1.0000025, 1_000_003)],
)
def test_durations_are_integer_microseconds_rounded_half_up(
    duration_s: float, duration_us: int
) -> None:
    params = effective(good({"prompt": "x", "duration_s": duration_s}), BUILT_IN_DEFAULTS)
    assert params.duration_us == duration_us
