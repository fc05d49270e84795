"""Tags and containers where libsndfile falls short: ID3 in UTF-8, Ogg files that repeat."""

import zlib


def id3_tag(comment: str, title: str) -> bytes:
    """An ID3v2.4 tag in UTF-8 with the fields that are not empty."""
    utf8, language, no_name = b"\3", b"und", b"\0"
    frames = b""
    if title:
        frames += _id3_frame(b"TIT2", utf8 + title.encode())
    if comment:
        frames += _id3_frame(b"COMM", utf8 + language + no_name + comment.encode())
    return b"ID3\4\0\0" + _syncsafe(len(frames)) + frames if frames else b""


def _id3_frame(name: bytes, content: bytes) -> bytes:
    return name + _syncsafe(len(content)) + b"\0\0" + content


def _syncsafe(size: int) -> bytes:
    """28 bits in four bytes of seven."""
    return bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0))


def with_serial_number(data: bytes, serial: int) -> bytes:
    """An Ogg file whose pages carry this serial number: libsndfile draws one at random, which is
    all that keeps its bytes from repeating."""
    pages = bytearray(data)
    at = 0
    while at < len(pages):
        n_segments = pages[at + 26]
        end = at + 27 + n_segments + sum(pages[at + 27 : at + 27 + n_segments])
        pages[at + 14 : at + 18] = serial.to_bytes(4, "little")
        pages[at + 22 : at + 26] = bytes(4)
        pages[at + 22 : at + 26] = _ogg_checksum(bytes(pages[at:end])).to_bytes(4, "little")
        at = end
    return bytes(pages)


_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _ogg_checksum(page: bytes) -> int:
    """Ogg's CRC-32: zlib's polynomial, most significant bit first, from 0 and not inverted."""
    mirrored = zlib.crc32(page.translate(_MIRRORED), 0xFFFF_FFFF) ^ 0xFFFF_FFFF
    return int(f"{mirrored:032b}"[::-1], 2)
