"""Bytes of a file as its table has them: unpacked, and of the form that the name says."""

import gzip
import io
import zlib
from typing import Any, BinaryIO, cast

import pyarrow as pa

from manifests.messages import shorten
from manifests.reader import ManifestError
from manifests.uris.suffixes import Compression, Form

_GZ, _ZST = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
# How files begin that hold no text: their words, and the ending that their name should have.
_SIGNS: tuple[tuple[bytes, str, str | None], ...] = (
    (b"PAR1", "is a Parquet file", ".parquet"),
    (b"ARROW1", "is an Arrow file", ".arrow"),
    (b"\xff\xff\xff\xff", "is a stream of Arrow batches", ".arrow"),
    (b"PK\x03\x04", "is a zip archive or an Excel workbook", ".xlsx"),
    (b"\xd0\xcf\x11\xe0", "is a workbook of Excel before 2007, or an encrypted one", None),
    (_GZ, "is compressed with gzip", ".gz"),
    (_ZST, "is compressed with zstd", ".zst"),
    (b"%PDF", "is a PDF", None),
)
_FORMS: dict[bytes, Form] = {
    b"PAR1": "parquet",
    b"ARROW1": "arrow",
    b"\xff\xff\xff\xff": "arrow",
    b"PK\x03\x04": "xlsx",
}


def unpacked(uri: str, stream: BinaryIO, compression: Compression | None) -> BinaryIO:
    """The stream without its compression; a ManifestError where it has none, or breaks off."""
    if compression is None:
        return stream
    head = stream.read(4)
    stream.seek(0)
    sign, words = (_GZ, "gzip") if compression == "gz" else (_ZST, "zstd")
    if not head:
        raise ManifestError(f"{uri}: is empty (0 bytes); write it again")
    if not head.startswith(sign):
        raise ManifestError(
            f"{uri}: is not compressed with {words}, although its name ends with .{compression}; "
            "rename it"
        )
    return cast(BinaryIO, io.BufferedReader(_Unpacked(uri, stream, compression), 2**18))


class _Unpacked(io.RawIOBase):
    """Unpacks as it is read, and says what is wrong with what can't be unpacked."""

    def __init__(self, uri: str, stream: BinaryIO, compression: Compression) -> None:
        self._uri, self._stream = uri, stream
        self._inner: Any
        if compression == "gz":
            self._inner = gzip.GzipFile(fileobj=stream)
        else:
            self._inner = pa.CompressedInputStream(pa.PythonFile(stream, mode="r"), "zstd")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._inner.read(len(buffer))
        except EOFError as error:
            raise self._cut_short() from error
        except (gzip.BadGzipFile, zlib.error) as error:
            raise self._damaged(error) from error
        except OSError as error:
            if "Truncated" in str(error):
                raise self._cut_short() from error
            if "decompress" in str(error):
                raise self._damaged(error) from error
            raise
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()

    def _cut_short(self) -> ManifestError:
        return ManifestError(f"{self._uri}: its compressed data is cut short; copy it again")

    def _damaged(self, error: Exception) -> ManifestError:
        return ManifestError(
            f"{self._uri}: its compressed data is damaged ({error}); copy it again"
        )


def refuse_other_forms(uri: str, head: bytes, form: Form) -> None:
    """A ManifestError where the first bytes of what should be text are those of something else."""
    for sign, words, ending in _SIGNS:
        if head.startswith(sign):
            way_out = f"let its name end with {ending}" if ending else "save it as CSV or .xlsx"
            raise ManifestError(f"{uri}: {words}, not {form.upper()}; {way_out}")


def look_into(uri: str, stream: BinaryIO) -> tuple[Form, Compression | None]:
    """Form and compression of a table without a name, by its first bytes."""
    head = stream.read(8)
    stream.seek(0)
    compression: Compression | None = None
    if head.startswith((_GZ, _ZST)):
        compression = "gz" if head.startswith(_GZ) else "zst"
    head = unpacked(uri, stream, compression).read(4096)
    for sign, form in _FORMS.items():
        if head.startswith(sign):
            return form, compression
    for sign, words, _ in _SIGNS:
        if head.startswith(sign):
            raise ManifestError(f"{uri}: {words}: {shorten(head[:8])}; pipe a table into it")
    text = head.removeprefix(b"\xef\xbb\xbf").replace(b"\0", b"").lstrip(b"\xff\xfe \t\r\n")
    if text.startswith(b"["):
        return "json", compression
    return "jsonl" if text.startswith(b"{") else "csv", compression
