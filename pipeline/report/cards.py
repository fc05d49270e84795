"""One clip of the report: its audio, pictures, measurements and provenance."""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pyarrow.parquet as pq

from manifests.audio_file import decode_reference
from pipeline.audio.encode import MEDIA_TYPES
from pipeline.ledger.parts import reading
from pipeline.report.highlights import phrases
from pipeline.report.pictures import LOWEST_HZ, spectrogram_png, waveform_path
from pipeline.storage import ObjectInfo, ObjectNotFoundError, Storage, StorageError

EMBED_LIMIT_BYTES = 96 * 2**20  # of audio in one page; further players link to the audio objects

Row = dict[str, Any]


class MissingAudioError(ValueError):
    """The audio of a clip can't be read; the message says where it should be."""


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


class AudioReader:
    """Reads encoded audio from files, tars or parts, wherever the audio mode put it.

    It keeps the last tar or Parquet row group, so that clips that lie together take one read.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._kept: tuple[str, dict[str, bytes]] = ("", {})

    def read(self, row: Row) -> bytes:
        """The encoded bytes of one clip.

        Raises:
            MissingAudioError: They can't be read.
        """
        path, member = row["audio_path"], row["audio_member"]
        try:
            if path is None:
                return self._from_part(row["part"], row["clip_id"])
            if member is not None:
                return self._from_tar(path, member)
            return self._storage.get(path)
        except ObjectNotFoundError:
            raise MissingAudioError(f"The audio is missing: {path or row['part']}") from None
        except KeyError:
            inside = path or row["part"]
            raise MissingAudioError(f"The audio is missing inside {inside}") from None
        except (StorageError, tarfile.TarError, ValueError) as error:
            raise MissingAudioError(f"The audio can't be read: {error}") from error

    def _from_tar(self, path: str, member: str) -> bytes:
        if self._kept[0] != path:
            with tarfile.open(fileobj=io.BytesIO(self._storage.get(path))) as tar:
                files = {entry.name: tar.extractfile(entry) for entry in tar if entry.isfile()}
                self._kept = (path, {name: file.read() for name, file in files.items() if file})
        return self._kept[1][member]

    def _from_part(self, path: str, clip_id: str) -> bytes:
        if self._kept[0] != path or clip_id not in self._kept[1]:
            size = self._storage.size(path) or 0
            with reading(self._storage, ObjectInfo(path, size, mtime=0.0)) as part:
                self._kept = (path, _row_group_audio(part, clip_id))
        return self._kept[1][clip_id]


def _row_group_audio(part: pq.ParquetFile, clip_id: str) -> dict[str, bytes]:
    """Audio by clip_id of the row group that holds the clip; empty where none does."""
    for group in range(part.num_row_groups):
        ids = part.read_row_group(group, columns=["clip_id"]).column("clip_id").to_pylist()
        if clip_id in ids:
            audio = part.read_row_group(group, columns=["audio"]).column("audio").to_pylist()
            pairs = zip(ids, audio, strict=True)
            return {name: found["bytes"] for name, found in pairs if found}
    return {}
