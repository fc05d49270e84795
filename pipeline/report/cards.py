"""One clip of the report: its audio, pictures, measurements and provenance."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

from manifests.audio_file import decode_reference
from manifests.uris.policy import ReferencePolicy
from pipeline.audio.encode import MEDIA_TYPES
from pipeline.audio.pictures import LOWEST_HZ, spectrogram_png, waveform_path
from pipeline.dataset.browse.references import (
    Reference,
    ReferenceReader,
    RefusedReferenceError,
    references_of,
)
from pipeline.ledger.clip_audio import AudioReader, MissingAudioError
from pipeline.report.highlights import phrases
from pipeline.storage import Storage

EMBED_LIMIT_BYTES = 96 * 2**20  # of audio in one page; further players link to the audio objects

REFERENCE_S = 30.0  # of a reference that the page holds
REFERENCE_TIMEOUT_S = 10.0  # a run does not wait longer for one at its end

Row = dict[str, Any]


@dataclass(frozen=True)
class ReferencePlayer:
    """A reference beside its clip.

    Attributes:
        role: melody, continuation or style.
        name: Its file.
        element: Name of its audio in the page; clips with the same reference share it.
        audio_src: A data URI; None where it can't be heard, for which `reason` says why.
        reason: See `audio_src`.
    """

    role: str
    name: str
    element: str
    audio_src: str | None
    reason: str = ""


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
    references: tuple[ReferencePlayer, ...] = ()
    """What it was made after."""


def make_cards(storage: Storage, rows: Iterable[Row], *, embed: bool) -> dict[str, Card]:
    """Makes a card of each row, by clip_id.

    Args:
        storage: Root of the output.
        rows: Columns of `clips/`, and `part`: the path of the part that holds the row.
        embed: Put the audio into the page, as far as EMBED_LIMIT_BYTES goes.
    """
    reader, references = AudioReader(storage), _References(storage, embed)
    embedded_bytes = 0
    cards = {}
    for row in sorted(rows, key=lambda r: (r["part"], r["audio_path"] or "")):
        try:
            data = reader.read(row)
        except MissingAudioError as error:
            cards[row["clip_id"]] = Card(row, phrases(row), str(error))
            continue
        fits = embedded_bytes + len(data) <= EMBED_LIMIT_BYTES
        card = _card(row, data, embed=embed and fits)
        embedded_bytes += len(data)
        beside = references.of(row, EMBED_LIMIT_BYTES - embedded_bytes)
        cards[row["clip_id"]] = replace(card, references=tuple(beside))
    return cards


class _References:
    """Players for references; each is read once, however many clips it has.

    Args:
        storage: Root of the output.
        embed: Whether the page holds audio.
    """

    def __init__(self, storage: Storage, embed: bool) -> None:
        policy = ReferencePolicy(reference_timeout_s=REFERENCE_TIMEOUT_S)
        # Its token says that it is what the job has decoded already.
        self._reader = ReferenceReader(storage, policy, isolated=False, most_s=REFERENCE_S)
        self._embed = embed
        self._known: dict[str, ReferencePlayer] = {}
        self._n_bytes = 0

    def of(self, row: Row, free_bytes: int) -> Iterator[ReferencePlayer]:
        """The players of a clip's references, as far as the page has room."""
        for each in references_of(row):
            if each.token not in self._known:
                self._known[each.token] = self._player(row, each, free_bytes)
            yield replace(self._known[each.token], role=each.role)

    def _player(self, row: Row, each: Reference, free_bytes: int) -> ReferencePlayer:
        name = each.shown.rpartition("/")[2]
        element = "reference-" + hashlib.blake2b(each.token.encode(), digest_size=8).hexdigest()
        if not self._embed:
            return ReferencePlayer(each.role, name, element, None, "not inside this page")
        try:
            data = self._reader.read(row, each.role)
        except RefusedReferenceError as error:
            return ReferencePlayer(each.role, name, element, None, str(error))
        if self._n_bytes + len(data) > free_bytes:
            return ReferencePlayer(each.role, name, element, None, "the page has no room for it")
        self._n_bytes += len(data)
        return ReferencePlayer(each.role, name, element, _data_uri(data, MEDIA_TYPES["flac"]))


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
