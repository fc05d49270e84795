"""JSON Lines, and a JSON array of objects."""

import json
from collections.abc import Iterator
from typing import Any

from manifests.messages import shorten
from manifests.reader import ManifestError, attempt
from manifests.sources.encoding import by_mark, find_encoding, open_text
from manifests.sources.inputs import InputFile
from manifests.sources.options import Reading
from manifests.sources.packed import refuse_other_forms
from manifests.sources.rows import Broken, SourceRow

_WAY_OUT = "write one JSON object per line"
_SPACE = " \t\r\n"


class JsonLinesFile:
    """A file with one JSON object per line. A line that is no UTF-8 is a fault of its row."""

    def __init__(self, file: InputFile, reading: Reading) -> None:
        self._file, self._encoding = file, _encoding_of(file, reading)
        self.notes: list[str] = []

    @property
    def names(self) -> list[str]:
        """All keys of all objects."""
        return list(dict.fromkeys(name for row in self.rows(0) for name in row.raw))

    def rows(self, first_row: int) -> Iterator[SourceRow]:
        """One row for each line that is not blank, numbered from `first_row`."""
        row = first_row
        with self._file.open() as stream:
            for number, line in enumerate(self._lines(stream), start=1):
                if line.strip():
                    raw, broken = _object_of_line(line.rstrip())
                    source, base = self._file.source, self._file.base_uri
                    yield SourceRow(source, row, number, raw, base, broken=broken)
                    row += 1

    def _lines(self, stream: Any) -> Iterator[bytes]:
        if self._encoding is not None:
            with open_text(stream, self._encoding) as text:
                while line := attempt(self._file.uri, text.readline):
                    yield line.encode("utf-8", "surrogatepass")
            return
        first = True
        while data := attempt(self._file.uri, stream.readline):
            yield data.removeprefix(b"\xef\xbb\xbf") if first else data
            first = False


class JsonFile:
    """A `.json` file: an array of objects, or one object per line."""

    def __init__(self, file: InputFile, reading: Reading) -> None:
        self._file = file
        self._encoding = _encoding_of(file, reading) or "utf-8-sig"
        with file.open() as stream:
            if self._encoding == "utf-8-sig":
                head = attempt(file.uri, lambda: stream.read(2**16)).decode("utf-8", "ignore")
            else:
                head = open_text(stream, self._encoding).read(2**16)
        self._lines = None
        if head.lstrip("\ufeff" + _SPACE).startswith("{"):
            self._lines = JsonLinesFile(file, reading)
            self._refuse_one_object(head)
        self.notes: list[str] = []

    def _refuse_one_object(self, head: str) -> None:
        """Raises where a file that begins with an object does not hold one object per line."""
        line = head.lstrip("\ufeff" + _SPACE).split("\n")[0]
        if len(head) >= 2**16 and "\n" not in head:
            return
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            inside = "an array of objects, or one object per line"
            raise ManifestError(
                f"{self._file.uri}: begins with an object that does not end in its first line; "
                f"write {inside} (pandas: to_json(orient='records'))"
            ) from None
        columns = [name for name, item in value.items() if isinstance(item, dict | list)]
        if len(value) == len(columns) > 0 and len(head) < 2**16 and head.strip().count("\n") == 0:
            raise ManifestError(
                f"{self._file.uri}: is one object whose values are whole columns or tables "
                f"({', '.join(map(shorten, columns[:3]))}); write an array of row objects (pandas: "
                "to_json(orient='records'))"
            )

    @property
    def names(self) -> list[str]:
        """All keys of all objects."""
        return list(dict.fromkeys(name for row in self.rows(0) for name in row.raw))

    def rows(self, first_row: int) -> Iterator[SourceRow]:
        """One row for each object, numbered from `first_row`."""
        if self._lines is not None:
            yield from self._lines.rows(first_row)
            return
        uri = self._file.uri
        with self._file.open() as stream:
            data = attempt(uri, stream.read)
        try:
            text = data.decode(self._encoding)
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            raise ManifestError(
                f"{uri}: is not UTF-8 (byte 0x{data[error.start]:02X} in line {line}); save it as "
                "UTF-8, or name its encoding with --encoding"
            ) from None
        yield from _array_rows(self._file, text, first_row)


def _encoding_of(file: InputFile, reading: Reading) -> str | None:
    """The encoding that is told or marked; None: UTF-8, as JSON should be."""
    with file.open() as stream:
        head = attempt(file.uri, lambda: stream.read(8))
    refuse_other_forms(file.uri, head, file.form)
    if reading.encoding is None and by_mark(head) in (None, "utf-8-sig"):
        return None
    return find_encoding(file.uri, file.open, reading.encoding).name


def _array_rows(file: InputFile, text: str, first_row: int) -> Iterator[SourceRow]:
    """The objects of an array, whose syntax is taken apart item by item, so that a fault has a
    place."""
    at = _after_space(text, 0)
    if at == len(text):
        return
    if text[at] != "[":
        raise ManifestError(
            f"{file.uri}: begins with {shorten(text[at : at + 20])}, not with [ or {{; write an "
            "array of objects, or one object per line"
        )
    row, line, counted = first_row, 1, 0
    at = _after_space(text, at + 1)
    while text[at : at + 1] != "]":
        line, counted = line + text.count("\n", counted, at), at
        raw, broken, end = _object_at(text, at)
        yield SourceRow(file.source, row, line, raw, file.base_uri, broken=broken)
        if end is None:
            return
        row += 1
        at = _after_space(text, end)
        if text[at : at + 1] == ",":
            at = _after_space(text, at + 1)
        elif text[at : at + 1] != "]":
            line += text.count("\n", counted, at)
            yield _break_off(file, row, line, text[at : at + 20])
            return
    rest = text[_after_space(text, at + 1) :]
    if rest:
        line += text.count("\n", counted, at)
        yield _break_off(file, row, line, rest[:20])


def _break_off(file: InputFile, row: int, line: int, found: str) -> SourceRow:
    what = f"goes on with {shorten(found)}" if found else "ends"
    rule = f"{what} where , or ] belongs, and what follows was not read"
    broken = ("the array", rule, "separate the objects with commas and close the array with ]")
    return SourceRow(file.source, row, line, {}, file.base_uri, broken=broken)


def _after_space(text: str, at: int) -> int:
    while at < len(text) and text[at] in _SPACE:
        at += 1
    return at


def _object_at(text: str, at: int) -> tuple[dict[str, Any], Broken | None, int | None]:
    """The object that begins at a place of an array, and where it ends; None: nobody knows."""
    doubled: list[str] = []
    decoder = json.JSONDecoder(object_pairs_hook=lambda pairs: _once(pairs, doubled))
    way_out = "mend it: an array holds objects, separated by commas"
    try:
        value, end = decoder.raw_decode(text, at)
    except json.JSONDecodeError as error:
        rule = f"is not valid JSON ({error.msg} at line {error.lineno}, column {error.colno})"
        rule += ", and what follows was not read"
        return {}, (shorten(text[at : at + 80]), rule, way_out), None
    except (ValueError, RecursionError) as error:
        rule = f"is not usable JSON ({error}), and what follows was not read"
        return {}, (shorten(text[at : at + 80]), rule, way_out), None
    raw, broken = _row_of(value, doubled)
    return raw, broken, end


def _object_of_line(line: bytes) -> tuple[dict[str, Any], Broken | None]:
    doubled: list[str] = []
    try:
        value = json.loads(
            line.decode("utf-8"), object_pairs_hook=lambda pairs: _once(pairs, doubled)
        )
    except UnicodeDecodeError as error:
        rule = f"is not UTF-8 at byte {error.start + 1}"
        return {}, (shorten(line), rule, "save the file as UTF-8, or name its --encoding")
    except json.JSONDecodeError as error:
        rule = f"is not valid JSON ({error.msg} at character {error.pos + 1})"
        return {}, (shorten(line.decode()), rule, _WAY_OUT)
    except (ValueError, RecursionError) as error:
        return {}, (shorten(line.decode()), f"is not usable JSON ({error})", _WAY_OUT)
    return _row_of(value, doubled)


def _once(pairs: list[tuple[str, Any]], doubled: list[str]) -> dict[str, Any]:
    """An object; its keys that stand there twice are noted."""
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        doubled.extend(name for name in dict.fromkeys(names) if names.count(name) > 1)
    return dict(pairs)


def _row_of(value: Any, doubled: list[str]) -> tuple[dict[str, Any], Broken | None]:
    if not isinstance(value, dict):
        return {}, (shorten(value), "is JSON, but no object", _WAY_OUT)
    if doubled:
        rule = f"has the key {shorten(doubled[0])} more than once"
        return value, (shorten(value), rule, "keep one of them")
    return value, None
