"""Sheets of Excel workbooks, through openpyxl: the values that Excel stored, not its formulas."""

import io
from collections.abc import Iterator, Sequence
from typing import Any

from manifests.messages import shorten
from manifests.reader import ManifestError, attempt
from manifests.sources.inputs import InputFile
from manifests.sources.options import Reading
from manifests.sources.rows import Broken, SourceRow

_OLE = b"\xd0\xcf\x11\xe0"


class XlsxFile:
    """One sheet of a workbook; its first row that is not blank is the header."""

    def __init__(self, file: InputFile, reading: Reading) -> None:
        self._file = file
        with file.open() as stream:
            self._data: bytes = attempt(file.uri, stream.read)
        self.notes: list[str] = []
        book = self._book(data_only=True)
        self._sheet = self._chosen(book, reading.sheet)
        self._header_row, self._columns = self._read_header(book[self._sheet])
        book.close()

    def _book(self, *, data_only: bool) -> Any:
        uri = self._file.uri
        try:
            import openpyxl
        except ImportError:
            raise ManifestError(
                f"{uri}: reading Excel workbooks needs the package openpyxl; "
                "pip install 'musicgen-batch[xlsx]', or save the sheet as CSV"
            ) from None
        if not self._data:
            raise ManifestError(f"{uri}: is empty (0 bytes); write it again")
        if self._data.startswith(_OLE):
            raise ManifestError(
                f"{uri}: is a workbook of Excel before 2007, or one with a password; save it as "
                ".xlsx without a password"
            )
        try:
            return openpyxl.load_workbook(
                io.BytesIO(self._data), read_only=True, data_only=data_only, keep_links=False
            )
        except Exception as error:  # zip, XML and openpyxl each raise their own
            raise ManifestError(
                f"{uri}: is no sound Excel workbook ({type(error).__name__}: {error}); save it "
                "again as .xlsx, or as CSV"
            ) from error

    def _chosen(self, book: Any, wanted: str | None) -> str:
        titles = [sheet.title for sheet in book.worksheets]
        if wanted is not None:
            if wanted not in titles:
                raise ManifestError(
                    f"{self._file.uri}: has no sheet {wanted!r}; it has "
                    f"{', '.join(map(repr, titles))}"
                )
            return wanted
        if not titles:
            raise ManifestError(f"{self._file.uri}: has no sheet of cells; add one")
        if len(titles) > 1:
            self.notes.append(
                f"{self._file.uri}: the first of {len(titles)} sheets, {titles[0]!r}, was read; "
                "--sheet names another"
            )
        return str(titles[0])

    def _read_header(self, sheet: Any) -> tuple[int, dict[int, str]]:
        """Number of the header's row, and the name of each column that has one."""
        for number, cells in self._cells(sheet):
            if not any(_is_filled(cell.value) for cell in cells):
                continue
            names = {
                index: str(cell.value).strip()
                for index, cell in enumerate(cells)
                if _is_filled(cell.value)
            }
            given = list(names.values())
            doubled = [name for name in dict.fromkeys(given) if given.count(name) > 1]
            if doubled:
                raise ManifestError(
                    f"{self._file.uri}: column {doubled[0]!r} stands there more than once; keep one"
                )
            return number, names
        return 0, {}

    def _cells(self, sheet: Any) -> Iterator[tuple[int, Sequence[Any]]]:
        sheet.reset_dimensions()  # some programs write wrong ones
        rows = sheet.iter_rows()
        number = 0
        while True:
            number += 1
            cells = attempt(self._file.uri, lambda: next(rows, None))
            if cells is None:
                return
            yield number, cells

    @property
    def names(self) -> list[str]:
        """The columns, from left to right."""
        return list(self._columns.values())

    def rows(self, first_row: int) -> Iterator[SourceRow]:
        """The rows below the header that are not blank, numbered from `first_row`."""
        values, formulas = self._book(data_only=True), self._book(data_only=False)
        both = zip(
            self._cells(values[self._sheet]), self._cells(formulas[self._sheet]), strict=True
        )
        row = first_row
        for (line, cells), (_, written) in both:
            if line <= self._header_row or not any(_is_filled(cell.value) for cell in written):
                continue
            raw = {
                name: cells[index].value if index < len(cells) else None
                for index, name in self._columns.items()
            }
            broken = self._fault(cells, written)
            file = self._file
            yield SourceRow(file.source, row, line, raw, file.base_uri, broken=broken)
            row += 1
        values.close()
        formulas.close()

    def _fault(self, cells: Sequence[Any], written: Sequence[Any]) -> Broken | None:
        for index, (cell, formula) in enumerate(zip(cells, written, strict=False)):
            value = cell.value
            if index not in self._columns:
                if _is_filled(value):
                    rule = f"stands in cell {_place(cell)}, whose column has no name"
                    return shorten(value), rule, "name the column in the header, or clear the cell"
            elif getattr(cell, "data_type", None) == "e":
                rule = f"is an error of Excel in cell {_place(cell)}"
                return shorten(value), rule, "mend its formula and save the workbook"
            elif value is None and getattr(formula, "data_type", None) == "f":
                rule = f"is a formula in cell {_place(formula)} whose result was not stored"
                return shorten(formula.value), rule, "open the workbook in Excel and save it"
        return None


def _is_filled(value: Any) -> bool:
    return value is not None and str(value).strip() != ""


def _place(cell: Any) -> str:
    return str(cell.coordinate)
