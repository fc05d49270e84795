"""Which encoding a file of text has: told, by its byte order mark, UTF-8, or found out and said."""

import codecs
import io
import unicodedata
from collections.abc import Callable
from itertools import pairwise
from typing import BinaryIO, NamedTuple, TextIO

from manifests.reader import ManifestError

Opener = Callable[[], BinaryIO]
_CHUNK, _SAMPLE = 2**20, 2**22
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins like UTF-16's
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_WESTERN = "cp1252"  # all of Latin-1 that people type, and what Windows puts beside it
# Western text has few letters beyond ASCII, and they seldom stand side by side.
_MOST_LETTERS, _MOST_NEIGHBOURS = 0.3, 0.25


class Encoding(NamedTuple):
    """The name of an encoding, and what the user should know of how it was found."""

    name: str
    note: str | None = None


def by_mark(head: bytes) -> str | None:
    """The encoding that a byte order mark says."""
    return next((name for mark, name in _MARKS if head.startswith(mark)), None)


def find_encoding(uri: str, open_bytes: Opener, told: str | None) -> Encoding:
    """The encoding in which the whole file can be read.

    Args:
        uri: The file, for messages.
        open_bytes: Opens it.
        told: What the user says.

    Raises:
        ManifestError: It has another one than it is told, or none that can be found out.
    """
    with open_bytes() as stream:
        head = stream.read(4096)
    marked = by_mark(head)
    if told is not None:
        return Encoding(_told(uri, open_bytes, told, marked))
    guess = marked or _without_mark(uri, head)
    broken = _first_fault(open_bytes, guess)
    if broken is None:
        if marked is None and guess != "utf-8":
            note = f"{uri}: has no byte order mark; it was read as {guess.upper()}"
            return Encoding(guess, note)
        return Encoding(guess)
    line, byte = broken
    if guess == "utf-8" and _is_western(open_bytes) and _first_fault(open_bytes, _WESTERN) is None:
        return Encoding(
            _WESTERN,
            f"{uri}: is not UTF-8 (byte 0x{byte:02X} in line {line}); it was read as Windows-1252 "
            "(Latin-1); --encoding names another",
        )
    raise ManifestError(
        f"{uri}: is not {guess.upper()} (byte 0x{byte:02X} in line {line}), and no other encoding "
        "fits for sure; save it as UTF-8, or name its own with --encoding, e.g. latin-1"
    )


def _told(uri: str, open_bytes: Opener, told: str, marked: str | None) -> str:
    name = codecs.lookup(told).name
    if marked is not None:
        family = marked.removesuffix("-sig")
        if not name.startswith(family):
            raise ManifestError(
                f"{uri}: begins with the byte order mark of {family.upper()}, which is not "
                f"--encoding {told}; leave --encoding out"
            )
        name = marked
    broken = _first_fault(open_bytes, name)
    if broken is not None:
        line, byte = broken
        raise ManifestError(
            f"{uri}: is not {told} (byte 0x{byte:02X} in line {line}); leave --encoding out, or "
            "name another"
        )
    return name


def _without_mark(uri: str, head: bytes) -> str:
    if b"\0" not in head:
        return "utf-8"
    even, odd = head[::2].count(0), head[1::2].count(0)
    if odd > len(head) / 5 and even < odd / 4:
        return "utf-16-le"
    if even > len(head) / 5 and odd < even / 4:
        return "utf-16-be"
    raise ManifestError(f"{uri}: holds zero bytes, so it is no text; save it as CSV in UTF-8")


def _first_fault(open_bytes: Opener, encoding: str) -> tuple[int, int] | None:
    """Line (1-based) and byte where the file can't be read in an encoding."""
    decoder = codecs.getincrementaldecoder(encoding)("strict")
    line = 1
    with open_bytes() as stream:
        while True:
            chunk = stream.read(_CHUNK)
            try:
                decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                before = error.object[: error.start]
                kept = len(error.object) - len(chunk)  # of the chunk before, counted already
                n_lines = before.count(b"\n", max(kept, 0))
                byte = error.object[error.start] if error.object else 0
                return line + n_lines, byte
            if not chunk:
                return None
            line += chunk.count(b"\n")


def _is_western(open_bytes: Opener) -> bool:
    """Whether text that is no UTF-8 reads like Windows-1252; half of it as UTF-8 is damaged."""
    with open_bytes() as stream:
        sample = stream.read(_SAMPLE)
    if any(ord(c) > 127 and c != "\ufffd" for c in sample.decode("utf-8", "replace")):
        return False
    text = sample.decode(_WESTERN, "replace")
    high = [i for i, c in enumerate(text) if ord(c) > 127]
    if not high or not all(unicodedata.category(text[i])[0] in "LPSNZ" for i in high):
        return not high  # what is wrong stands behind the sample: its own pass decides
    n_letters = sum(c.isalpha() for c in text)
    high_letters = sum(text[i].isalpha() for i in high)
    neighbours = sum(b - a == 1 for a, b in pairwise(high))
    few = high_letters <= _MOST_LETTERS * n_letters
    return few and neighbours <= _MOST_NEIGHBOURS * len(high)


def open_text(stream: BinaryIO, encoding: str) -> TextIO:
    """The stream as text, line ends as they stand."""
    return io.TextIOWrapper(stream, encoding=encoding, errors="strict", newline="")
