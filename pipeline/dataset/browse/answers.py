"""Answers of the server: JSON that every browser reads right, and bytes by range."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from datetime import date, datetime
from typing import Any

from starlette.responses import Response, StreamingResponse

CHUNK_BYTES = 1 << 20
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_LARGEST = 2**53 - 1  # a number above it loses digits in JavaScript
NO_STORE = {"Cache-Control": "no-store"}


def plain(value: Any) -> Any:
    """A value of a row as JSON has it: large integers as text, times in ISO 8601 (UTC)."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, int):
        return value if abs(value) <= _LARGEST else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, datetime):
        return value.replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, dict):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return str(value)


def as_json(content: Any, status: int = 200) -> Response:
    """A JSON document, which no cache keeps."""
    body = json.dumps(plain(content), ensure_ascii=False, allow_nan=False).encode()
    return Response(body, status, NO_STORE, "application/json")


def refusal(message: str, status: int) -> Response:
    """An error that the page shows."""
    return as_json({"error": message}, status)


def requested_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Start and end (exclusive) that a Range header asks for; None asks for the whole.

    Raises:
        ValueError: It asks for what lies beyond the end.
    """
    found = _RANGE.fullmatch((header or "").strip())
    if found is None or not any(found.groups()):  # several ranges, or other units
        return None
    first, last = found.groups()
    if not first:
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(int(last) + 1, size) if last else size
    if start >= size or end <= start:
        if last and first and int(last) < int(first):
            return None  # not a valid range, so it is ignored
        raise ValueError(f"bytes {start} to {end} of {size}")
    return start, end


def bytes_answer(
    header: str | None, size: int, read: Callable[[int, int], bytes], headers: dict[str, str]
) -> Response:
    """Bytes of something, whole or by range; called in a thread, since it reads the first of them.

    Args:
        header: The Range header of the request.
        size: Of the whole.
        read: Bytes from a start to an end (exclusive).
        headers: Of the answer; `Content-Type` among them.
    """
    headers = {"Accept-Ranges": "bytes"} | headers
    try:
        wanted = requested_range(header, size)
    except ValueError:
        return Response(b"", 416, {"Content-Range": f"bytes */{size}"} | headers)
    start, end = wanted or (0, size)
    headers |= {"Content-Length": str(end - start)}
    if wanted:
        headers |= {"Content-Range": f"bytes {start}-{end - 1}/{size}"}
    first = read(start, min(start + CHUNK_BYTES, end)) if end > start else b""  # raises in time

    def chunks() -> Iterator[bytes]:
        yield first
        for at in range(start + len(first), end, CHUNK_BYTES):
            yield read(at, min(at + CHUNK_BYTES, end))

    return StreamingResponse(chunks(), 206 if wanted else 200, headers)
