"""The encoding of text: what is told, what a mark says, what is found out, and what is refused."""

from pathlib import Path

import pytest

from manifests.reader import ManifestError
from manifests.sources.options import reading
from tests.manifests.sources.read import notes_of, raws, rows_of

TEXT = "id,prompt\na,“café” – naïve über\nb,plain words\nc,smørrebrød and tea for two people\n"
PROMPTS = ["“café” – naïve über", "plain words", "smørrebrød and tea for two people"]


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"]
)
def test_text_is_read_in_its_encoding(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "m.csv"
    rows = rows_of(path, TEXT.encode(encoding))
    assert [raw["prompt"] for raw in raws(rows)] == PROMPTS
    said = notes_of(path)
    # What stands neither in the file nor in a flag is said.
    assert bool(said) == (encoding in ("utf-16-le", "utf-16-be", "cp1252"))


def test_latin_1_is_said_with_the_first_place(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_bytes("id,prompt\na,x\nb,café\n".encode("latin-1"))
    assert notes_of(path) == [
        f"{path}: is not UTF-8 (byte 0xE9 in line 3); it was read as Windows-1252 (Latin-1); "
        "--encoding names another"
    ]
    assert notes_of(path, reading(encoding="latin-1")) == []


def test_an_encoding_that_is_told_is_used(tmp_path: Path) -> None:
    content = "id,prompt\na,тихая музыка\n"
    rows = rows_of(tmp_path / "m.csv", content.encode("cp1251"), reading(encoding="cp1251"))
    assert raws(rows) == [{"id": "a", "prompt": "тихая музыка"}]
    rows = rows_of(tmp_path / "u.csv", content.encode("utf-8-sig"), reading(encoding="utf8"))
    assert raws(rows) == [{"id": "a", "prompt": "тихая музыка"}]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("id,prompt\na,тихая музыка\n".encode("cp1251"), "0xF2 in line 2.*no other encoding fits"),
        ("id,prompt\na,静かな音楽 with a flute\n".encode("shift-jis"), "no other encoding fits"),
        (b"id,prompt\na,caf\xc3\xa9 and caf\xe9\n", "0xE9 in line 2.*no other encoding fits"),
        (b"id,prompt\na,\x81\n", "no other encoding fits"),
        (b"id,prompt\na,x\0\n\n", "holds zero bytes, so it is no text"),
        (b"\xff\xfei\0d\0,\0p", "is not UTF-16"),
    ],
)
def test_what_can_not_be_told_for_sure_is_refused(
    tmp_path: Path, content: bytes, words: str
) -> None:
    with pytest.raises(ManifestError, match=words) as caught:
        rows_of(tmp_path / "m.csv", content)
    assert "--encoding" in str(caught.value) or "UTF-8" in str(caught.value)


@pytest.mark.parametrize(
    ("encoding", "told", "words"),
    [
        ("utf-16", "latin-1", "byte order mark of UTF-16, which is not --encoding latin-1"),
        ("latin-1", "utf-8", "is not utf-8 .byte 0xE9 in line 2."),
        ("latin-1", "ascii", "is not ascii .byte 0xE9 in line 2."),
    ],
)
def test_an_encoding_that_does_not_fit_is_refused(
    tmp_path: Path, encoding: str, told: str, words: str
) -> None:
    content = "id,prompt\na,café\n".encode(encoding)
    with pytest.raises(ManifestError, match=words):
        rows_of(tmp_path / "m.csv", content, reading(encoding=told))


@pytest.mark.parametrize("told", ["klingon", "base64", ""])
def test_an_encoding_that_nobody_knows_is_refused(told: str) -> None:
    with pytest.raises(ManifestError, match="is no encoding of text that is known"):
        reading(encoding=told)


def test_a_fault_behind_the_first_megabyte_is_found_with_its_line(tmp_path: Path) -> None:
    lines = 600
    words = b"word " * 400
    content = b"id,prompt\n" + b"".join(b"%d,%s\n" % (n, words) for n in range(lines))
    content += b"x,caf\xe9\n"
    assert len(content) > 2**20
    path = tmp_path / "m.csv"
    rows = rows_of(path, content)
    assert (len(rows), rows[-1].raw["prompt"]) == (lines + 1, "café")
    assert f"in line {lines + 2})" in notes_of(path)[0]
