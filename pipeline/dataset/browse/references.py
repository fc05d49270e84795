"""The reference audio of clips, under the rules by which a job reads it.

A reference is served only where a row of the output names it, the policy for references allows it,
its content is what the clip was named after (the token in `references`), and it is audio within the
limits: all of it is decoded in a process of its own first. What leaves is never the file but its
samples, encoded anew. Nothing is fetched from the web.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from manifests.audio_file import ReferenceOpener, decode_reference
from manifests.identity import bytes_token
from manifests.reader import Manifest, ManifestError
from manifests.redaction import shown_uri
from manifests.row_errors import RowError
from manifests.schema import ROLES, resolve_uri
from manifests.uris.filesystems import WEB, split_uri
from manifests.uris.policy import LOCAL, ReferenceAccess, ReferencePolicy
from manifests.uris.references import read_reference
from pipeline import ledger
from pipeline.audio.encode import Coding, encode
from pipeline.dataset.browse.audio import KeptBytes
from pipeline.storage import Storage, StorageError

KEPT_BYTES = 64 * 2**20
Row = dict[str, Any]


class RefusedReferenceError(ValueError):
    """A reference that is not served; the message says why."""


@dataclass(frozen=True)
class Reference:
    """One reference of a clip.

    Attributes:
        role: melody, continuation or style.
        uri: Its address as the row gives it; None where the manifest holds the audio.
        token: Names its content.
    """

    role: str
    uri: str | None
    token: str

    @property
    def shown(self) -> str:
        """What the page calls it."""
        return "inside the manifest" if self.uri is None else shown_uri(self.uri)


def references_of(row: Row) -> Iterator[Reference]:
    """The references of a clip, in the order of roles."""
    found = row.get("references")
    if isinstance(found, str):
        with suppress(ValueError):
            found = json.loads(found)
    if isinstance(found, dict):
        for role in ROLES:
            if isinstance(found.get(role), str):
                yield Reference(role, row.get(f"{role}_uri"), found[role])


class ReferenceReader:
    """Reads references of an output's clips as FLAC. Threads may share it.

    Args:
        storage: Root of the output.
        policy: Limits; whether an output in an object store may name files of this machine.
        isolated: Decode in a process of its own first, as a job does.
        most_s: Only the beginning of longer audio is read; None: all of it.
    """

    def __init__(
        self,
        storage: Storage,
        policy: ReferencePolicy,
        *,
        isolated: bool = True,
        most_s: float | None = None,
    ) -> None:
        self._storage, self._policy = storage, policy
        self._isolated, self._most_s = isolated, most_s
        self._kept = KeptBytes(KEPT_BYTES)
        self._loudness: dict[str, float | None] = {}
        self._openers: dict[str, ReferenceOpener] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """Ends the processes that decode."""
        with self._lock:
            for opener in self._openers.values():
                opener.close()
            self._openers.clear()

    def read(self, row: Row, role: str) -> bytes:
        """The audio of one reference, encoded anew.

        Raises:
            RefusedReferenceError: It can't be had, or may not be served.
        """
        wanted = next((each for each in references_of(row) if each.role == role), None)
        if wanted is None:
            raise RefusedReferenceError(f"this clip has no {role}")
        kept = self._kept.get(wanted.token)
        if kept is not None:
            return kept
        with self._lock:  # one at a time: decoding takes memory
            data = self._decoded(row, wanted)
        self._kept.put(wanted.token, data)
        return data

    def loudness(self, row: Row, role: str) -> float | None:
        """Its integrated loudness in LUFS; None for silence and for what is too short."""
        token = next((each.token for each in references_of(row) if each.role == role), "")
        if token not in self._loudness:
            from pipeline.audio.measure import measure

            wav, rate_hz = decode_reference(self.read(row, role), role)
            self._loudness[token] = measure(wav, rate_hz).loudness_lufs
        return self._loudness[token]

    def _decoded(self, row: Row, wanted: Reference) -> bytes:
        try:
            manifest = self._manifest_of(row)
            access = ReferenceAccess(self._policy, self._storage.options, manifest)
            if wanted.uri is None:
                place: str | bytes = self._embedded(row, wanted, manifest)
            else:
                place = resolve_uri(wanted.uri, manifest)
                self._check_place(place)
            if self._isolated:
                heard = self._opener(access).judge([(place, manifest)])[0]
                if isinstance(heard, RowError):
                    raise heard
            data = read_reference(place, access, wanted.token)
            wav, rate_hz = decode_reference(data, wanted.shown)
            if self._most_s is not None:
                wav = wav[:, : round(self._most_s * rate_hz)]
            return encode(np.clip(wav, -1, 1), rate_hz, Coding())
        except (RowError, StorageError, ManifestError, ValueError) as error:
            said = str(error).removesuffix("; then `retry`").removesuffix(", then `retry`")
            raise RefusedReferenceError(said) from error

    def _check_place(self, place: str) -> None:
        """Refuses what lies in another kind of store than the output."""
        protocol, home = split_uri(place)[0], self._storage.protocol
        if protocol in WEB:
            raise RefusedReferenceError(
                f"{shown_uri(place)}: is on the web, where this page fetches nothing; open it there"
            )
        if protocol in LOCAL and home not in LOCAL and not self._policy.allow_local_references:
            raise RefusedReferenceError(
                f"{shown_uri(place)}: is a file of this machine, which an output in an object "
                "store may not name; allow it with --allow-local-references"
            )
        if protocol not in LOCAL and protocol != home:
            raise RefusedReferenceError(
                f"{shown_uri(place)}: lies in another store than the output, which this page does "
                "not open"
            )

    def _manifest_of(self, row: Row) -> str:
        """The manifest of the run that made a clip; relative references count from its folder."""
        runs = {record["run_id"]: record for record in ledger.read_runs(self._storage)}
        config = runs.get(row["run_id"], {}).get("config")
        named = config.get("run", {}).get("manifest") if isinstance(config, dict) else None
        if not isinstance(named, str):
            raise RefusedReferenceError(
                "the record of the run that made this clip is gone, which says where its manifest "
                "lies"
            )
        return named if named.endswith(".parquet") and "*" not in named else _inside(named)

    def _embedded(self, row: Row, wanted: Reference, manifest: str) -> bytes:
        """The bytes that the manifest holds for the row of that id."""
        self._check_place(manifest)
        opened = Manifest.survey(manifest, storage_options=self._storage.options)
        column = f"{wanted.role}_audio"
        if {"id", column} <= set(opened.known_columns):
            for group in opened.row_groups:
                ids = opened.read_row_group(group, columns=["id"])
                if not any(row["id"] in batch["id"].to_pylist() for _, batch in ids):
                    continue
                for _, batch in opened.read_row_group(group, columns=["id", column]):
                    for each in batch.to_pylist():
                        data = _bytes_of(each[column])
                        if each["id"] == row["id"] and bytes_token(data) == wanted.token:
                            return data
        raise RefusedReferenceError(
            f"{shown_uri(manifest)}: holds no row {row['id']!r} any more with the {wanted.role} "
            "that this clip was made with"
        )

    def _opener(self, access: ReferenceAccess) -> ReferenceOpener:
        if access.manifest_uri not in self._openers:
            for opener in self._openers.values():
                opener.close()
            self._openers = {access.manifest_uri: ReferenceOpener(access)}
        return self._openers[access.manifest_uri]


def _inside(manifest: str) -> str:
    """A file in the folder, or in that of the pattern, as which a manifest was named."""
    folder = manifest.split("*")[0].rpartition("/")[0] if "*" in manifest else manifest.rstrip("/")
    return f"{folder}/manifest.parquet"


def _bytes_of(value: Any) -> bytes:
    data = value.get("bytes") if isinstance(value, dict) else value
    return data if isinstance(data, bytes) else b""
