"""Compressed tables: rows as from the plain file, and a cause where they can't be unpacked."""

import gzip
import io
from pathlib import Path

import pyarrow as pa
import pytest

from manifests.reader import ManifestError
from manifests.sources.packed import look_into
from tests.manifests.sources.read import raws, rows_of

CSV = b"id,prompt\n" + b"".join(b"%d,song number %d\n" % (n, n * n) for n in range(3000))


def zstd(data: bytes) -> bytes:
    return bytes(pa.compress(data, codec="zstd", asbytes=True))


PACK = {"gz": gzip.compress, "zst": zstd}


@pytest.mark.parametrize("ending", PACK)
def test_rows_are_those_of_the_plain_file(tmp_path: Path, ending: str) -> None:
    plain = raws(rows_of(tmp_path / "m.csv", CSV))
    assert raws(rows_of(tmp_path / f"m.csv.{ending}", PACK[ending](CSV))) == plain
    halves = PACK[ending](CSV[:900]) + PACK[ending](CSV[900:])  # as `cat a.gz b.gz` makes them
    assert raws(rows_of(tmp_path / f"h.csv.{ending}", halves)) == plain
    assert len(plain) == 3000


@pytest.mark.parametrize("form", ["jsonl", "json", "tsv"])
def test_every_form_of_text_may_be_compressed(tmp_path: Path, form: str) -> None:
    text = {"jsonl": b'{"prompt": "a"}\n', "json": b'[{"prompt": "a"}]', "tsv": b"prompt\tid\na\t1"}
    for ending, pack in PACK.items():
        (raw,) = raws(rows_of(tmp_path / f"m.{form}.{ending}", pack(text[form])))
        assert raw["prompt"] == "a"


@pytest.mark.parametrize("ending", PACK)
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda data: b"", "is empty .0 bytes."),
        (lambda data: CSV, "is not compressed with"),
        (lambda data: data[: len(data) // 2], "is cut short; copy it again"),
        (lambda data: data[:-3], "is cut short; copy it again"),
        (lambda data: data[:4] + bytes(40) + data[44:], "compressed data is"),
    ],
    ids=["empty", "plain", "half", "without end", "damaged"],
)
def test_what_can_not_be_unpacked_says_why(
    tmp_path: Path, ending: str, spoil: object, words: str
) -> None:
    assert callable(spoil)
    with pytest.raises(ManifestError, match=words):
        rows_of(tmp_path / f"m.csv.{ending}", spoil(PACK[ending](CSV)))


@pytest.mark.parametrize("name", ["m.parquet.gz", "m.xlsx.zst", "m.arrow.gz"])
def test_what_is_compressed_inside_is_not_compressed_again(tmp_path: Path, name: str) -> None:
    with pytest.raises(ManifestError, match="is compressed inside; unpack it"):
        rows_of(tmp_path / name, gzip.compress(b"x"))


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"id,prompt\na,b\n", ("csv", None)),
        (b'\xef\xbb\xbf{"prompt": "a"}', ("jsonl", None)),
        (b' [{"prompt": "a"}]', ("json", None)),
        (b"PAR1....", ("parquet", None)),
        (b"ARROW1..", ("arrow", None)),
        (b"PK\x03\x04....", ("xlsx", None)),
        (gzip.compress(b'{"prompt": "a"}', mtime=0), ("jsonl", "gz")),
        (zstd(b"id,prompt"), ("csv", "zst")),
        ('[{"prompt": "a"}]'.encode("utf-16"), ("json", None)),
    ],
)
def test_a_table_without_a_name_is_known_by_its_first_bytes(
    data: bytes, found: tuple[str, str | None]
) -> None:
    assert look_into("standard input", io.BytesIO(data)) == found


def test_a_pdf_is_no_table() -> None:
    with pytest.raises(ManifestError, match="standard input: is a PDF"):
        look_into("standard input", io.BytesIO(b"%PDF-1.7"))
