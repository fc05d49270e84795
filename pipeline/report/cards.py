"""One clip of the report: its audio, pictures, measurements and provenance."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from manifests.audio_file import decode_reference
from pipeline.audio.encode import MEDIA_TYPES
from pipeline.audio.pictures import LOWEST_HZ, spectrogram_png, waveform_path
from pipeline.ledger.clip_audio import AudioReader, MissingAudioError
from pipeline.report.highlights import phrases
from pipeline.storage import Storage

EMBED_LIMIT_BYTES = 96 * 2**20  # of audio in one page; further players link to the audio objects

Row = dict[str, Any]


@dataclass(frozen=True)
class Card:
    """One clip as the template shows it."""

    row: Row
    phrases: list[str]
    """What is suspicious about it."""
    problem: str | None
    """Why there is no audio; then there are no pictures either."""
    wave_path: str = ""
    spectrogram_uri: str = ""
    top_hz: float = 0.0
    audio_src: str | None = None
    """A data URI, a relative link, or None, for which `silent_reason` gives the reason."""
    silent_reason: str | None = None
    lowest_hz: float = LOWEST_HZ


def make_cards(storage: Storage, rows: Iterable[Row], *, embed: bool) -> dict[str, Card]:
    """Makes a card of each row, by clip_id.

    Args:
        storage: Root of the output.
        rows: Columns of `clips/`, and `part`: the path of the part that holds the row.
        embed: Put the audio into the page, as far as EMBED_LIMIT_BYTES goes.
    """
    reader = AudioReader(storage)
    embedded_bytes = 0
    cards = {}
    for row in sorted(rows, key=lambda r: (r["part"], r["audio_path"] or "")):
        try:
            data = reader.read(row)
        except MissingAudioError as error:
            cards[row["clip_id"]] = Card(row, phrases(row), str(error))
            continue
        fits = embedded_bytes + len(data) <= EMBED_LIMIT_BYTES
        cards[row["clip_id"]] = _card(row, data, embed=embed and fits)
        embedded_bytes += len(data)
    return cards


def _card(row: Row, data: bytes, *, embed: bool) -> Card:
    if hashlib.sha256(data).hexdigest() != row["audio_sha256"]:
        return Card(row, phrases(row), "The audio differs from its sha256: run verify.")
    try:
        wav, sample_rate_hz = decode_reference(data, row["audio_path"] or row["clip_id"])
    except ValueError as error:
        return Card(row, phrases(row), str(error))
    source, reason = _source(row, data, embed)
    return Card(
        row=row,
        phrases=phrases(row),
        problem=None,
        wave_path=waveform_path(wav),
        spectrogram_uri=_data_uri(spectrogram_png(wav, sample_rate_hz), "image/png"),
        top_hz=sample_rate_hz / 2,
        audio_src=source,
        silent_reason=reason,
    )


def _source(row: Row, data: bytes, embed: bool) -> tuple[str | None, str | None]:
    """The source of the player: embedded bytes or a link, or None and why there is neither."""
    if embed:
        return _data_uri(data, MEDIA_TYPES[row["audio_format"]]), None
    if row["audio_path"] and not row["audio_member"]:
        return quote(row["audio_path"]), None  # report.html stands in the root of the output
    inside = row["audio_path"] or row["part"]
    return None, f"Not embedded; the audio is inside {inside}."


def _data_uri(data: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"
