"""Workbooks: values keep Excel's types, and cells without one are issues with their place."""

import builtins
import io
from datetime import datetime
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from manifests.reader import ManifestError
from manifests.sources.options import reading
from tests.manifests.sources.read import messages, notes_of, raws, rows_of


def workbook(
    path: Path, *rows: list[Any], sheets: dict[str, list[list[Any]]] | None = None
) -> Path:
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    for row in rows:
        sheet.append(row)
    for title, more in (sheets or {}).items():
        other = book.create_sheet(title)
        for row in more:
            other.append(row)
    book.save(path)
    return path


def test_values_keep_their_types_and_blank_rows_do_not_count(tmp_path: Path) -> None:
    path = workbook(
        tmp_path / "m.xlsx",
        [],
        ["id", " prompt ", "duration_s", "seed", "use_sampling", "made", None],
        [7, "a", 2.5, 3, True, datetime(2026, 1, 31)],
        [],
        ["b", "café, “soft”", None, None, None, None],
    )
    rows = rows_of(path)
    assert raws(rows) == [
        {
            "id": 7,
            "prompt": "a",
            "duration_s": 2.5,
            "seed": 3,
            "use_sampling": True,
            "made": datetime(2026, 1, 31),
        },
        {"id": "b", "prompt": "café, “soft”"}
        | dict.fromkeys(("duration_s", "seed", "use_sampling", "made")),
    ]
    assert [(row.row, row.line) for row in rows] == [(0, 3), (1, 5)]
    assert messages(rows) == [[], []]


def test_a_sheet_can_be_named_and_the_choice_of_one_is_said(tmp_path: Path) -> None:
    sheets = {"Ideas": [["prompt"], ["from ideas"]]}
    path = workbook(tmp_path / "m.xlsx", ["prompt"], ["from the first"], sheets=sheets)
    assert raws(rows_of(path)) == [{"prompt": "from the first"}]
    assert "the first of 2 sheets, 'Sheet', was read; --sheet" in notes_of(path)[0]
    assert raws(rows_of(path, reading=reading(sheet="Ideas"))) == [{"prompt": "from ideas"}]
    assert notes_of(path, reading(sheet="Ideas")) == []
    with pytest.raises(ManifestError, match="has no sheet 'Idea'; it has 'Sheet', 'Ideas'"):
        rows_of(path, reading=reading(sheet="Idea"))


def test_cells_without_a_value_are_issues_of_their_rows(tmp_path: Path) -> None:
    path = workbook(
        tmp_path / "m.xlsx",
        ["prompt", "duration_s"],
        ["fine", 2],
        ["a formula", "=1+1"],
        ["beside", 2, "a note"],
        [3, 2],
        ["text", "12 s"],
    )
    book = openpyxl.load_workbook(path)
    sheet = book.active
    assert sheet is not None
    sheet["A7"], sheet["B7"] = "an error", "#REF!"
    sheet["B7"].data_type = "e"
    book.save(path)
    said = messages(rows_of(path))
    assert [len(some) for some in said] == [0, 1, 1, 1, 1, 1]
    assert "m.xlsx line 3 row 1: '=1+1' is a formula in cell B3 whose result was not" in said[1][0]
    assert "'a note' stands in cell C4, whose column has no name" in said[2][0]
    assert "prompt=3 is an integer, not text" in said[3][0]
    assert "duration_s='12 s' is text, not a number" in said[4][0]
    assert "'#REF!' is an error of Excel in cell B7" in said[5][0]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty .0 bytes."),
        (b"\xd0\xcf\x11\xe0" + bytes(600), "before 2007, or one with a password"),
        (b"id,prompt\na,b\n", "is no sound Excel workbook"),
        (b"PK\x03\x04" + bytes(60), "is no sound Excel workbook"),
    ],
)
def test_what_is_no_workbook(tmp_path: Path, content: bytes, words: str) -> None:
    with pytest.raises(ManifestError, match=words):
        rows_of(tmp_path / "m.xlsx", content)


def test_a_workbook_that_is_cut_short_or_empty(tmp_path: Path) -> None:
    path = workbook(tmp_path / "m.xlsx", ["prompt"], ["a"])
    with pytest.raises(ManifestError, match="is no sound Excel workbook"):
        rows_of(tmp_path / "cut.xlsx", path.read_bytes()[:-300])
    with pytest.raises(ManifestError, match="has no rows"):
        rows_of(workbook(tmp_path / "empty.xlsx", ["prompt"]))
    with pytest.raises(ManifestError, match="has no rows"):
        rows_of(workbook(tmp_path / "nothing.xlsx"))
    with pytest.raises(ManifestError, match="column 'prompt' stands there more than once"):
        rows_of(workbook(tmp_path / "twice.xlsx", ["prompt", "prompt"], ["a", "b"]))


def test_without_openpyxl_the_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = workbook(tmp_path / "m.xlsx", ["prompt"], ["a"])
    real = builtins.__import__

    def lacking(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "openpyxl":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", lacking)
    with pytest.raises(ManifestError, match=r"pip install 'musicgen-batch\[xlsx\]'"):
        rows_of(path)


def test_a_workbook_of_a_data_frame(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"prompt": ["a", "b"], "seed": [1, None]})
    buffer = io.BytesIO()
    table.to_excel(buffer, index=False)
    assert raws(rows_of(tmp_path / "m.xlsx", buffer.getvalue())) == [
        {"prompt": "a", "seed": 1},
        {"prompt": "b", "seed": None},
    ]
