"""`--map`: renamed columns, constants, and what can't be meant."""

from pathlib import Path

import pytest

from manifests.build import build
from manifests.reader import ManifestError
from manifests.sources.mapping import column_map
from manifests.sources.options import reading
from tests.manifests.sources.read import raws, rows_of


def test_a_mapped_field_of_csv_takes_the_type_of_its_new_column(tmp_path: Path) -> None:
    how = reading(columns=["prompt=text", "duration_s=len", "seed=5", "source=radio"])
    rows = rows_of(tmp_path / "m.csv", "text,len,mood\na,2.5,007\nb,,x\n", how)
    assert raws(rows) == [
        {"prompt": "a", "duration_s": 2.5, "seed": 5, "source": "radio", "mood": "007"},
        {"prompt": "b", "duration_s": None, "seed": 5, "source": "radio", "mood": "x"},
    ]


def test_a_column_may_fill_two_and_replaces_one_of_the_same_name(tmp_path: Path) -> None:
    how = reading(columns=["prompt=text", "title=text"])
    rows = rows_of(tmp_path / "m.jsonl", '{"prompt": "old", "text": "new"}\n', how)
    assert raws(rows) == [{"prompt": "new", "title": "new"}]


def test_a_key_that_only_later_objects_have_is_a_column(tmp_path: Path) -> None:
    how = reading(columns=["prompt=text"])
    rows = rows_of(tmp_path / "m.jsonl", '{"id": "a"}\n{"id": "b", "text": "x"}\n', how)
    assert [raw["prompt"] for raw in raws(rows)] == [None, "x"]


def test_a_row_without_the_mapped_value_is_an_issue(tmp_path: Path) -> None:
    source = tmp_path / "m.csv"
    source.write_text("id,text\na,x\nb,\n")
    how = reading(columns=["prompt=text"])
    summary = build(str(source), str(tmp_path / "m.parquet"), reading=how)
    (issue,) = summary.issues
    assert issue.message.startswith("m.csv line 3 row 1 (id=b): prompt=")


@pytest.mark.parametrize(
    ("text", "names", "value"),
    [
        ("duration_s=30", ["text"], 30.0),
        ("takes=2", ["text"], 2),
        ("use_sampling=false", ["text"], False),
        ("prompt=a slow waltz", ["text"], "a slow waltz"),
        ("prompt==text", ["text"], "text"),
        ("prompt==txt", ["text"], "txt"),
    ],
)
def test_what_is_no_column_is_a_constant(text: str, names: list[str], value: object) -> None:
    name, _, what = text.partition("=")
    assert column_map({name: what}, names).constants == {name: value}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("prompt=txt", "there is no column 'txt'; did you mean 'text'?"),
        ("prompt=Text", "did you mean 'text'?"),
        ("duration_s=length", "'length' is neither a column nor a number; the columns are text"),
        ("use_sampling=sometimes", "is neither a column nor true or false"),
    ],
)
def test_constants_that_can_not_be_meant(text: str, words: str) -> None:
    name, _, what = text.partition("=")
    with pytest.raises(ManifestError, match=words.replace("?", r"\?")):
        column_map({name: what}, ["text"])


@pytest.mark.parametrize("texts", [["prompt"], ["=x"], ["prompt="], ["prompt=a", "prompt=b"]])
def test_flags_that_are_no_map(texts: list[str]) -> None:
    with pytest.raises(ManifestError, match="--map"):
        reading(columns=texts)
