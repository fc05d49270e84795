"""JSONL and CSV manifests, row by row: what can't be parsed is a fault of its row, not a crash.

Both are UTF-8, with or without a byte order mark. Blank lines don't count as rows. CSV has a header
and commas; an empty field is null, and known columns take their type from the schema.
"""

import csv
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from manifests.messages import shorten
from manifests.reader import ManifestError, attempt, open_filesystem
from manifests.schema import (
    BOOL_COLUMNS,
    COLUMNS,
    FLOAT_COLUMNS,
    INT_COLUMNS,
    PromptRow,
    RowIssue,
    parse_row,
)
from manifests.uris.files import open_file

_JSON_LINES = (".jsonl", ".ndjson")
_INTEGER = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
Broken = tuple[str, str, str]  # what stands there (shortened), rule, way out
_BOOLEANS = {"true": True, "false": False, "1": True, "0": False}


@dataclass(frozen=True)
class TextRow:
    """One row of a text manifest, not yet checked."""

    source: str
    row: int  # 0-based, blank lines not counted
    line: int  # 1-based, where the row begins
    raw: dict[str, Any]
    is_csv: bool  # then the extra columns are still text
    broken: Broken | None = None  # the line could not be taken apart

    def parse(self) -> tuple[PromptRow | None, list[RowIssue]]:
        """`parse_row`, or the line's own fault."""
        if self.broken is None:
            return parse_row(self.raw, source=self.source, row=self.row, line=self.line)
        value, rule, way_out = self.broken
        return None, [RowIssue(self.source, self.row, None, None, value, rule, way_out, self.line)]


def is_text(uri: str) -> bool:
    """Whether `uri` names a JSONL or CSV manifest."""
    return PurePosixPath(uri).suffix.lower() in (*_JSON_LINES, ".csv")


def read_text(uri: str, storage_options: Mapping[str, Any] | None = None) -> Iterator[TextRow]:
    """Streams the rows of a .jsonl or .csv file.

    Raises:
        ManifestError: The file can't be read, is no UTF-8 text, has no rows or no usable header.
    """
    if not is_text(uri):
        raise ManifestError(f"{uri}: is neither .jsonl nor .csv; rename or convert it")
    is_csv = PurePosixPath(uri).suffix.lower() == ".csv"
    lines = _lines(uri, storage_options or {})
    source = PurePosixPath(uri).name
    rows = (_csv if is_csv else _jsonl)(lines, source, uri)
    first = next(rows, None)
    if first is None:
        raise ManifestError(f"{uri}: has no rows; add at least one")
    yield first
    yield from rows


def _lines(uri: str, storage_options: Mapping[str, Any]) -> Iterator[bytes]:
    fs, path = open_filesystem(uri, storage_options)
    with attempt(uri, lambda: open_file(fs, uri, path)) as stream:
        lines = iter(stream)
        line = attempt(uri, lambda: next(lines, None))
        if line is not None and line.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise ManifestError(f"{uri}: is UTF-16; save it as UTF-8")
        line = line and line.removeprefix(b"\xef\xbb\xbf")
        while line is not None:
            yield line
            line = attempt(uri, lambda: next(lines, None))


def _jsonl(lines: Iterator[bytes], source: str, uri: str) -> Iterator[TextRow]:
    row = 0
    for number, line in enumerate(lines, start=1):
        if line.strip():
            raw, broken = _json_object(line.rstrip())
            yield TextRow(source, row, number, raw, False, broken)
            row += 1


def _json_object(line: bytes) -> tuple[dict[str, Any], Broken | None]:
    doubled: list[str] = []

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        doubled.extend(name for name in dict.fromkeys(names) if names.count(name) > 1)
        return dict(pairs)

    way_out = "write one JSON object per line"
    try:
        value = json.loads(line.decode("utf-8"), object_pairs_hook=once)
    except UnicodeDecodeError as error:
        rule = f"is not UTF-8 at byte {error.start + 1}"
        return {}, (shorten(line), rule, "save the file as UTF-8")
    except json.JSONDecodeError as error:
        rule = f"is not valid JSON ({error.msg} at character {error.pos + 1})"
        return {}, (shorten(line.decode()), rule, way_out)
    except (ValueError, RecursionError) as error:
        return {}, (shorten(line.decode()), f"is not usable JSON ({error})", way_out)
    if not isinstance(value, dict):
        return {}, (shorten(value), "is JSON, but no object", way_out)
    if doubled:
        rule = f"has the key {shorten(doubled[0])} more than once"
        return value, (shorten(value), rule, "keep one of them")
    return value, None


def _csv(lines: Iterator[bytes], source: str, uri: str) -> Iterator[TextRow]:
    # strict: a quote that is never closed is an error, not a row that holds the rest of the file
    reader = csv.reader((line.decode("utf-8") for line in lines), strict=True)
    header: list[str] | None = None
    row, line = 0, 1
    try:
        for fields in reader:
            line, begins = reader.line_num + 1, line
            if not any(field.strip() for field in fields):
                continue
            if header is None:
                header = _checked_header(fields, uri)
                continue
            yield _csv_row(header, fields, source, row, begins)
            row += 1
    except (csv.Error, UnicodeDecodeError) as error:
        if header is None:
            raise ManifestError(f"{uri}: its header is not readable CSV ({error})") from error
        way_out = 'close every quote, write " inside text as "", and save the file as UTF-8'
        rule = f"is not readable CSV ({error}), and what follows was not read"
        yield TextRow(source, row, line, {}, True, ("the file", rule, way_out))


def _checked_header(names: list[str], uri: str) -> list[str]:
    if len(names) == 1 and re.search(r"[;\t]", names[0]):
        raise ManifestError(f"{uri}: its fields are not separated by commas; save it with commas")
    if not all(name.strip() for name in names):
        column = next(i for i, name in enumerate(names, start=1) if not name.strip())
        raise ManifestError(
            f"{uri}: column {column} has no name; name it or remove it (pandas: index=False)"
        )
    doubled = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if doubled:
        raise ManifestError(f"{uri}: column {doubled[0]!r} stands there more than once; keep one")
    return names


def _csv_row(header: list[str], fields: list[str], source: str, row: int, line: int) -> TextRow:
    raw = {name: _typed(name, field) for name, field in zip(header, fields, strict=False)}
    broken = None
    if len(fields) != len(header):
        rule = f"has {len(fields)} fields, the header has {len(header)}"
        way_out = 'write one field per column, and text with commas in quotes: "a, b"'
        broken = (shorten(",".join(fields)), rule, way_out)
    return TextRow(source, row, line, raw, True, broken)


def _typed(name: str, field: str) -> Any:
    """A field as its column's type; as text where it is none, for `parse_row` to say so."""
    if name not in COLUMNS:
        return field or None
    text = field.strip()
    if name in (*FLOAT_COLUMNS, *INT_COLUMNS):
        if name in INT_COLUMNS and _INTEGER.fullmatch(text) and len(text) <= 30:
            return int(text)
        if _NUMBER.fullmatch(text) or text.casefold() in ("nan", "inf", "-inf"):
            return float(text)
    if name in BOOL_COLUMNS:
        return _BOOLEANS.get(text.casefold(), field)
    return field
