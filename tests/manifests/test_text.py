"""JSONL and CSV: each value gets its column's type, and a broken line is an issue, not a crash."""

from pathlib import Path
from typing import Any

import pytest

from manifests.reader import ManifestError
from manifests.text import TextRow, read_text


def rows_of(path: Path, content: str | bytes) -> list[TextRow]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(read_text(str(path)))


def raws(rows: list[TextRow]) -> list[dict[str, Any]]:
    return [row.raw for row in rows]


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


def test_csv_values_take_their_columns_type(tmp_path: Path) -> None:
    rows = rows_of(
        tmp_path / "m.csv",
        "id,prompt,duration_s,seed,takes,use_sampling,genre\n"
        '007,"a, ""b""\nc",2.5, 12 ,3.0,TRUE,jazz\n'
        "\n"
        ",,,,,,\n"
        "8,d,1e1,,nan,0,\n",
    )
    assert raws(rows) == [
        {
            "id": "007",
            "prompt": 'a, "b"\nc',
            "duration_s": 2.5,
            "seed": 12,
            "takes": 3.0,
            "use_sampling": True,
            "genre": "jazz",
        },
        pytest.approx(
            {
                "id": "8",
                "prompt": "d",
                "duration_s": 10.0,
                "seed": "",
                "takes": float("nan"),
                "use_sampling": False,
                "genre": None,
            },
            nan_ok=True,
        ),
    ]
    assert [(row.row, row.line) for row in rows] == [(0, 2), (1, 6)]
    second, _ = rows[1].parse()
    assert second is not None
    assert (second.seed, second.takes) == (None, 1)


@pytest.mark.parametrize(
    ("column", "field"),
    [
        ("duration_s", "12 s"),
        ("duration_s", '"1,5"'),
        ("duration_s", "1_000"),
        ("duration_s", "inf"),
        ("seed", "0x10"),
        ("seed", "9" * 40),
        ("use_sampling", "maybe"),
        ("melody_audio", "UklGRg=="),
    ],
)
def test_a_csv_field_of_the_wrong_type_is_an_issue(tmp_path: Path, column: str, field: str) -> None:
    (row,) = rows_of(tmp_path / "m.csv", f"prompt,{column}\nx,{field}\n")
    parsed, issues = row.parse()
    assert parsed is None
    assert [issue.column for issue in issues] == [column]


def test_csv_rows_of_the_wrong_length_are_issues(tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "m.csv", "id,prompt\na,warm, soft pads\nb\nc,fine\n")
    messages = [[issue.message for issue in row.parse()[1]] for row in rows]
    assert "has 3 fields, the header has 2" in messages[0][0]
    assert "has 1 fields" in messages[1][0]
    assert messages[2] == []


@pytest.mark.parametrize(
    "tail", [b'c,"never closed\nd,x\n', b'c,"closed"too early\n', b"c,caf\xe9\n"]
)
def test_csv_that_breaks_off_reports_where(tmp_path: Path, tail: bytes) -> None:
    rows = rows_of(tmp_path / "m.csv", b"id,prompt\na,x\nb,y\n" + tail)
    assert len(rows) == 3
    (issue,) = rows[2].parse()[1]
    assert issue.line == 4
    assert "what follows was not read" in issue.message


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("m.csv", b"", "has no rows"),
        ("m.csv", b"id,prompt\n", "has no rows"),
        ("m.jsonl", b"\n\n", "has no rows"),
        ("m.csv", b"id;prompt\na;b\n", "not separated by commas"),
        ("m.csv", b",prompt\n0,a\n", "column 1 has no name"),
        ("m.csv", b"prompt,prompt\na,b\n", "'prompt' stands there more than once"),
        ("m.csv", "id,prompt\na,b\n".encode("utf-16"), "is UTF-16"),
        ("m.csv", b"id,pr\xe9mpt\na,b\n", "header is not readable"),
        ("m.txt", b"a", "neither .jsonl nor .csv"),
    ],
)
def test_files_that_are_unusable_as_a_whole(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    with pytest.raises(ManifestError, match=words) as caught:
        rows_of(tmp_path / name, content)
    assert name in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"none.csv: not found"):
        list(read_text(str(tmp_path / "none.csv")))
