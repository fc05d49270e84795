"""CSV and TSV: each value gets its column's type, and a broken row is an issue, not a crash."""

from pathlib import Path

import pytest

from manifests.reader import ManifestError
from manifests.sources.options import reading
from tests.manifests.sources.read import messages, notes_of, raws, rows_of


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
    assert (second.seed, second.takes) == (None, None)


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
    said = messages(rows)
    assert "has 3 fields, the header has 2" in said[0][0]
    assert "has 1 fields" in said[1][0]
    assert said[2] == []


@pytest.mark.parametrize("tail", [b'c,"never closed\nd,x\n', b'c,"closed"too early\n'])
def test_csv_that_breaks_off_reports_where(tmp_path: Path, tail: bytes) -> None:
    rows = rows_of(tmp_path / "m.csv", b"id,prompt\na,x\nb,y\n" + tail)
    assert len(rows) == 3
    (issue,) = rows[2].parse()[1]
    assert issue.line == 4
    assert "what follows was not read" in issue.message


FIELDS = [["id", "prompt", "duration_s"], ["a", "warm, soft; pads", "2"], ["b", "x", "3.5"]]
TABLE = [
    {"id": "a", "prompt": "warm, soft; pads", "duration_s": 2.0},
    {"id": "b", "prompt": "x", "duration_s": 3.5},
]


def written(delimiter: str) -> str:
    """FIELDS with fields in quotes where they hold what separates them."""

    def quoted(field: str) -> str:
        return f'"{field}"' if delimiter in field else field

    return "".join(delimiter.join(map(quoted, row)) + "\n" for row in FIELDS)


@pytest.mark.parametrize(
    ("delimiter", "shown"), [(",", None), (";", "';'"), ("\t", "tab"), ("|", "'|'")]
)
def test_what_separates_fields_is_found_out_and_said(
    tmp_path: Path, delimiter: str, shown: str | None
) -> None:
    path = tmp_path / "m.csv"
    assert raws(rows_of(path, written(delimiter))) == TABLE
    said = [] if shown is None else [f"{path}: its fields are separated by {shown}"]
    assert notes_of(path) == said


def test_what_separates_fields_can_be_told(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    assert raws(rows_of(path, written("^"), reading(delimiter="^"))) == TABLE
    assert raws(rows_of(path, written("\t"), reading(delimiter="tab"))) == TABLE
    assert raws(rows_of(tmp_path / "m.tsv", written("\t"))) == TABLE
    assert raws(rows_of(path, "sep=;\n" + written(";"))) == TABLE


def test_a_prompt_with_semicolons_does_not_decide_the_delimiter(tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "m.csv", "prompt,mood\na; b; c,x\nd; e; f,y\n")
    assert raws(rows) == [
        {"prompt": "a; b; c", "mood": "x"},
        {"prompt": "d; e; f", "mood": "y"},
    ]


def test_a_delimiter_that_separates_nothing_is_named_with_the_one_that_does(tmp_path: Path) -> None:
    with pytest.raises(
        ManifestError, match=r"'id\^prompt\^duration_s' is one field.*--delimiter '\^'"
    ):
        rows_of(tmp_path / "m.csv", written("^"))
    with pytest.raises(ManifestError, match=r"tab does not separate it; .* --delimiter ','"):
        rows_of(tmp_path / "m.tsv", "id,prompt\na,b\n")


@pytest.mark.parametrize("delimiter", ["", ";;", '"', "\n"])
def test_a_delimiter_that_can_separate_nothing_is_refused(delimiter: str) -> None:
    with pytest.raises(ManifestError, match="is not one character that can separate fields"):
        reading(delimiter=delimiter)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("m.csv", b"", "has no rows"),
        ("m.csv", b"id,prompt\n", "has no rows"),
        ("m.csv", b",prompt\n0,a\n", "column 1 has no name"),
        ("m.csv", b"prompt,prompt\na,b\n", "'prompt' stands there more than once"),
        ("m.csv", b"PAR1" + bytes(20), "is a Parquet file, not CSV; let its name end with"),
        ("m.csv", b"PK\x03\x04" + bytes(20), "is a zip archive or an Excel workbook, not CSV"),
        ("m.tsv", b"\x1f\x8b" + bytes(20), "is compressed with gzip, not TSV"),
        ("m.csv", b'"id,prompt\na,b\n', "its header is not readable CSV"),
        ("m.txt", b"a", "its name does not say what it is"),
        ("m.xls", b"a", "is a workbook of Excel before 2007; save it as .xlsx"),
        ("m.zip", b"a", "is an archive; unpack it"),
        ("m", b"a", "its name does not say what it is"),
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
        rows_of(tmp_path / "none.csv")
