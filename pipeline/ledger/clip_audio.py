"""The encoded audio of committed clips, wherever the audio mode put it."""

from __future__ import annotations

import io
import tarfile
from typing import Any

import pyarrow.parquet as pq

from pipeline.ledger.parts import reading
from pipeline.storage import ObjectInfo, ObjectNotFoundError, Storage, StorageError

Row = dict[str, Any]


class MissingAudioError(ValueError):
    """The audio of a clip can't be read; the message says where it should be."""


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
