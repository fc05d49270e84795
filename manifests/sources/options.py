"""How sources are to be read, where their names and contents do not say it."""

import codecs
from collections.abc import Iterable
from dataclasses import dataclass, field

from manifests.messages import shorten
from manifests.reader import ManifestError
from manifests.uris.suffixes import Form

STDIN = "-"
_WORDS = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "pipe": "|", "space": " "}


@dataclass(frozen=True)
class Reading:
    """What the user says of the sources; `reading` makes it and checks it."""

    delimiter: str | None = None  # of CSV; None: found out
    encoding: str | None = None  # of text; None: found out
    form: Form | None = None  # None: by the name, or by the content of standard input
    sheet: str | None = None  # of XLSX; None: the first
    columns: dict[str, str] = field(default_factory=dict)  # column of the manifest to what fills it

    @property
    def is_plain(self) -> bool:
        """Whether nothing is said."""
        return self == Reading()


@dataclass(frozen=True)
class Source:
    """A table, and what the user says of it."""

    uri: str
    reading: Reading


def reading(
    *,
    delimiter: str | None = None,
    encoding: str | None = None,
    form: Form | None = None,
    sheet: str | None = None,
    columns: Iterable[str] = (),
) -> Reading:
    """What the flags say; a ManifestError names the one that can't be meant.

    Args:
        delimiter: One character, or a word such as `tab`.
        encoding: A name that Python knows, such as latin-1.
        form: The form of the files, whatever their names say.
        sheet: A sheet of the workbook.
        columns: NAME=COLUMN or NAME=VALUE.
    """
    if delimiter is not None:
        delimiter = _WORDS.get(delimiter.casefold(), delimiter)
        if len(delimiter) != 1 or delimiter in '"\r\n\0':
            raise ManifestError(
                f"--delimiter {delimiter!r}: is not one character that can separate fields; give "
                "one, e.g. --delimiter ';', or tab"
            )
    if encoding is not None:
        try:
            codecs.lookup(encoding)
            "".encode(encoding)  # some codecs make no text
        except (LookupError, TypeError, ValueError):
            raise ManifestError(
                f"--encoding {encoding!r}: is no encoding of text that is known; give one such as "
                "utf-8, latin-1, cp1252, utf-16"
            ) from None
    mapped: dict[str, str] = {}
    for text in columns:
        name, mark, what = text.partition("=")
        if not mark or not name.strip() or not what:
            raise ManifestError(
                f"--map {text!r}: is not NAME=COLUMN or NAME=VALUE; write e.g. --map prompt=caption"
            )
        if name in mapped:
            raise ManifestError(f"--map {name}: stands there twice; keep one of them")
        mapped[name] = what
    return Reading(delimiter, encoding, form, sheet, mapped)


def field_hint(text: str) -> str:
    """A delimiter as messages show it."""
    return "tab" if text == "\t" else shorten(text)
