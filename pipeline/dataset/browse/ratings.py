"""Ratings: a side table of the output, never a part of its clips.

Each session of the page owns one Parquet object below `ratings/` and writes it anew with every
rating, in one step. Of several ratings of a clip the latest counts. Where the output can't be
written to, the ratings go to a folder of this machine.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.ledger import new_run_id
from pipeline.ledger.names import is_rating, rating_path
from pipeline.storage import Storage, StorageError, open_storage

log = logging.getLogger(__name__)

SCHEMA = pa.schema(
    [
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("rating", pa.int8()),  # null takes an earlier one back
        pa.field("rated_at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)
HIGHEST = 5


class Rating(NamedTuple):
    """What somebody thinks of a clip."""

    stars: int | None
    at: datetime


def local_folder(storage: Storage) -> Path:
    """Where the ratings of an output go that can't be written to."""
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    digest = hashlib.blake2b(storage.root.encode(), digest_size=8).hexdigest()
    return Path(base) / "musicgen-batch" / digest


class Ratings:
    """The ratings of an output. Threads may share it.

    Args:
        storage: Root of the output.
        fallback: Folder of this machine, for an output that can't be written to.
    """

    def __init__(self, storage: Storage, fallback: Path) -> None:
        self._storage = storage
        self._fallback = open_storage(str(fallback))
        self._target = storage
        self._path = rating_path(new_run_id())
        self._all: dict[str, Rating] = {}
        self._mine: dict[str, Rating] = {}
        self._lock = threading.Lock()
        self.read_only_because: str | None = None

    @property
    def where(self) -> str:
        """The object that this session writes."""
        return self._target.uri(self._path)

    def load(self) -> dict[str, int]:
        """Reads what earlier sessions rated: clip to stars."""
        for storage in (self._fallback, self._storage):
            try:
                for info in storage.list("ratings"):
                    if is_rating(info.path):
                        self._merge(storage.get(info.path))
            except StorageError as error:  # the clips can be heard all the same
                log.warning("earlier ratings can't be read: %s", error)
        return self.stars()

    def _merge(self, data: bytes) -> None:
        try:
            rows = pq.read_table(io.BytesIO(data)).select(SCHEMA.names).cast(SCHEMA).to_pylist()
        except (pa.ArrowException, KeyError):
            return  # not written by this program, or damaged; it stays as it is
        for row in rows:
            new = Rating(row["rating"], row["rated_at"])
            old = self._all.get(row["clip_id"])
            if old is None or old.at <= new.at:
                self._all[row["clip_id"]] = new

    def stars(self) -> dict[str, int]:
        """The ratings that stand: clip to stars."""
        given = list(self._all.items())
        return {clip: rating.stars for clip, rating in given if rating.stars is not None}

    def standing(self) -> dict[str, Rating]:
        """The same with their times, the latest first."""
        given = [item for item in list(self._all.items()) if item[1].stars is not None]
        return dict(sorted(given, key=lambda item: item[1].at, reverse=True))

    def rate(self, clip_id: str, stars: int | None) -> None:
        """Stores a rating; None takes it back.

        Raises:
            StorageError: Neither the output nor this machine takes it.
        """
        if stars is not None and not 1 <= stars <= HIGHEST:
            raise ValueError(f"a rating is 1 to {HIGHEST}")
        with self._lock:
            rating = Rating(stars, datetime.now(UTC))
            mine = self._mine | {clip_id: rating}
            data = _encoded(mine)
            try:
                self._target.put(self._path, data)
            except StorageError as error:
                if self._target is self._fallback:
                    raise
                self._fallback.put(self._path, data)
                self._target, self.read_only_because = self._fallback, str(error)
            self._mine = mine
            self._all[clip_id] = rating


def _encoded(ratings: dict[str, Rating]) -> bytes:
    rows = [
        {"clip_id": clip, "rating": rating.stars, "rated_at": rating.at}
        for clip, rating in ratings.items()
    ]
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), sink, compression="zstd")
    return sink.getvalue()
