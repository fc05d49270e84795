"""Placeholders: each has one value in a command; what can't be filled is refused in a sentence."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from manifests.uris.placeholders import PlaceholderError, Placeholders, literal

RUN = "20261128T225959-a1b2c3"
NIGHT = datetime(2026, 11, 28, 22, 59, 59, tzinfo=UTC)


def placeholders(now: datetime = NIGHT) -> Placeholders:
    return Placeholders(
        lambda: RUN, now, {"BUCKET": "b", "EMPTY": "", "AWS_SECRET_ACCESS_KEY": "x"}
    )


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("s3://b/{date}/m.parquet", "s3://b/2026-11-28/m.parquet"),
        ("out/{run_id}", f"out/{RUN}"),
        ("s3://${BUCKET}/{date}-{date}", "s3://b/2026-11-28-2026-11-28"),
        ("out/{{date}}/$${BUCKET}", "out/{date}/${BUCKET}"),
        ("out/$BUCKET/{}/{1}/a{,b}", "out/$BUCKET/{}/{1}/a{,b}"),
        ("plain", "plain"),
    ],
)
def test_what_is_known_is_filled(text: str, filled: str) -> None:
    assert placeholders().fill(text, "--output") == filled


def test_the_date_is_that_of_utc() -> None:
    east = NIGHT.astimezone(timezone(timedelta(hours=9)))  # the 29th there
    assert placeholders(east).fill("{date}", "--output") == "2026-11-28"


def test_a_run_has_one_id_which_is_drawn_when_it_is_named() -> None:
    ids = iter(["first", "second"])
    fill = Placeholders(lambda: next(ids), NIGHT, {})
    assert fill.fill("{date}", "x") == "2026-11-28"
    assert fill.run_id is None
    assert fill.fill_all({"a": ["{run_id}", 3], "b": "{run_id}"}, "x") == {
        "a": ["first", 3],
        "b": "first",
    }
    assert fill.run_id == "first"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("out/{day}", r"--output: \{day\} is not known; there are \{date\}, .* and \{\{day\}\}"),
        ("out/{date:%Y}", r"\{date:%Y\} is not known"),
        ("out/${UNSET}", r"variable UNSET is not set; set it, or write \$\$\{UNSET\}"),
        ("out/${EMPTY}", "variable EMPTY is empty"),
        ("out/${}", "does not name a variable"),
        ("out/${A B}", "does not name a variable"),
        ("out/${AWS_SECRET_ACCESS_KEY}", "looks like a credential"),
    ],
)
def test_what_is_not_known_is_refused(text: str, words: str) -> None:
    with pytest.raises(PlaceholderError, match=words):
        placeholders().fill(text, "--output")


def test_a_command_without_a_run_has_no_run_id() -> None:
    with pytest.raises(PlaceholderError, match="this command makes none; name the run"):
        Placeholders(None, NIGHT, {}).fill("{run_id}", "--output")


@pytest.mark.parametrize("text", ["a/{date}", "${HOME}/x", "plain", "{{x}}", "$${X}", "{}$"])
def test_what_is_written_as_a_literal_comes_back(text: str) -> None:
    assert Placeholders(None, NIGHT, {}).fill(literal(text), "x") == text
