"""JSON Lines and JSON arrays: values keep their types, and a broken object is an issue."""

from pathlib import Path

import pytest

from manifests.reader import ManifestError
from manifests.sources.options import reading
from tests.manifests.sources.read import messages, raws, rows_of


def test_jsonl_keeps_json_types_and_counts_rows_without_blank_lines(tmp_path: Path) -> None:
    rows = rows_of(
        tmp_path / "m.jsonl",
        '\ufeff{"prompt": "a", "seed": 1}\n\n   \r\n{"prompt": "b\u2028c", "bpm": 3.5}',
    )
    assert raws(rows) == [{"prompt": "a", "seed": 1}, {"prompt": "b\u2028c", "bpm": 3.5}]
    assert [(row.row, row.line) for row in rows] == [(0, 1), (1, 4)]


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        (b'{"prompt": ', "is not valid JSON (Expecting value at character 11)"),
        (b"['a']", "is not valid JSON"),
        (b'["prompt"]', "is JSON, but no object"),
        (b"null", "is JSON, but no object"),
        (b'{"prompt": "a", "prompt": "b"}', "has the key 'prompt' more than once"),
        (b'{"prompt": "caf\xe9"}', "is not UTF-8 at byte 16"),
        (b'{"a":' * 100_000, "is not usable JSON"),
        (b'{"seed": ' + b"1" * 5000 + b"}", "is not usable JSON"),
    ],
)
def test_a_broken_jsonl_line_is_an_issue_and_its_neighbours_are_read(
    tmp_path: Path, line: bytes, rule: str
) -> None:
    rows = rows_of(tmp_path / "m.jsonl", b'{"prompt": "a"}\n' + line + b'\n{"prompt": "c"}\n')
    parsed = [row.parse() for row in rows]
    assert [row is None for row, _ in parsed] == [False, True, False]
    (issue,) = parsed[1][1]
    assert rule in issue.message
    assert "m.jsonl line 2 row 1" in issue.message
    assert len(issue.message) < 300


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_json_lines_in_another_encoding(tmp_path: Path, encoding: str) -> None:
    content = '{"prompt": "café"}\n{"prompt": "b"}\n'.encode(encoding)
    told = reading(encoding="latin-1") if encoding == "latin-1" else None
    assert raws(rows_of(tmp_path / "m.jsonl", content, told)) == [
        {"prompt": "café"},
        {"prompt": "b"},
    ]


ARRAY = """[
  {"prompt": "a", "seed": 1},

  {"prompt": "b",
   "bpm": 3.5}
]
"""


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_an_array_of_objects(tmp_path: Path, encoding: str) -> None:
    rows = rows_of(tmp_path / "m.json", ARRAY.encode(encoding))
    assert raws(rows) == [{"prompt": "a", "seed": 1}, {"prompt": "b", "bpm": 3.5}]
    assert [(row.row, row.line) for row in rows] == [(0, 2), (1, 4)]


def test_a_json_file_may_hold_lines(tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "m.json", '{"prompt": "a"}\n{"prompt": "b"}\n')
    assert raws(rows) == [{"prompt": "a"}, {"prompt": "b"}]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[{"prompt": "a"}, 7, {"prompt": "c"}]', [[], ["is JSON, but no object"], []]),
        ('[{"prompt": "a"}, {"x": 1, "x": 2}, {"prompt": "c"}]', [[], ["'x' more than once"], []]),
        ('[{"prompt": "a"},\n{"prompt": }]', [[], ["at line 2, column 12"]]),
        ('[{"prompt": "a"}\n5]', [[], ["goes on with '5]'"]]),
        ('[{"prompt": "a"}', [[], ["the array ends where , or ] belongs"]]),
        ('[{"prompt": "a"},', [[], ["is not valid JSON"]]),
        ('[{"prompt": "a"}] x', [[], ["goes on with 'x'"]]),
    ],
)
def test_what_is_wrong_with_an_array_has_a_place(
    tmp_path: Path, text: str, said: list[list[str]]
) -> None:
    found = messages(rows_of(tmp_path / "m.json", text))
    assert len(found) == len(said), found
    for of_row, words in zip(found, said, strict=True):
        assert len(of_row) == len(words)
        for message, word in zip(of_row, words, strict=True):
            assert word in message
            assert message.startswith("m.json line ")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "has no rows"),
        (b"[]", "has no rows"),
        (b'{\n  "prompt": "a"\n}\n', "begins with an object that does not end in its first line"),
        (b'{"prompt": ["a", "b"], "seed": [1, 2]}', "values are whole columns or tables"),
        (b'{"data": [{"prompt": "a"}]}', "values are whole columns or tables"),
        (b'"prompt"', "not with"),
        (b'[{"prompt": "caf\xe9"}]', "is not UTF-8 .byte 0xE9 in line 1."),
        (b"PAR1" + bytes(8), "is a Parquet file, not JSON"),
    ],
)
def test_json_that_is_unusable_as_a_whole(tmp_path: Path, content: bytes, words: str) -> None:
    with pytest.raises(ManifestError, match=words):
        rows_of(tmp_path / "m.json", content)
