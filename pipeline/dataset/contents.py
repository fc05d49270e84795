"""What of an output is published: what the ledger explains, and the files that describe it."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from pipeline.dataset import croissant
from pipeline.dataset.card import Identity, identity_of, new_identity, render_card
from pipeline.dataset.keep import Standing, describe, read_standing, title_of
from pipeline.dataset.snapshot import Figures, Snapshot, read_in_order, take_snapshot
from pipeline.ledger.names import (
    CARD,
    CROISSANT,
    METADATA,
    is_audio,
    part_name,
    run_of_record,
    sidecar_of,
)
from pipeline.ledger.output_schema import standing_schema
from pipeline.ledger.parts import list_parts, on_steady_listing
from pipeline.storage import ObjectInfo, Storage, StorageError

_AUDIO_COLUMNS = (
    *("audio_path", "audio_member", "audio_bytes", "audio_sha256"),
    *("c2pa", "c2pa_sidecar_sha256"),
)


class PublishError(StorageError):
    """The dataset can't be published, or not as a whole; the message says why and the way out."""


@dataclass(frozen=True)
class Item:
    """An object that is published.

    Attributes:
        sha256: where the ledger knows it.
    """

    path: str
    size: int
    sha256: str | None = None

    def check(self, where: str, size: int, sha256: str | None) -> None:
        """PublishError where what was read is not what was committed."""
        if size == self.size and (self.sha256 is None or sha256 == self.sha256):
            return
        raise PublishError(
            f"{where} is not what was committed ({size} bytes, sha256 {sha256}; committed with "
            f"{self.size} bytes, sha256 {self.sha256}); `musicgen-batch verify` tells what is "
            "damaged, and `verify --repair` has the next run make it again"
        )


@dataclass(frozen=True)
class Contents:
    """What is published of an output, at one moment.

    Attributes:
        audio: files of clips, their sidecars, and tars.
        parts: of `clips/`; whoever sees them sees their clips.
        records: dead letters, scores, and records of runs.
    """

    snapshot: Snapshot
    schema: pa.Schema
    figures: Figures
    audio: tuple[Item, ...]
    parts: tuple[Item, ...]
    records: tuple[Item, ...]

    @property
    def items(self) -> tuple[Item, ...]:
        """All but the files that describe the dataset, in the order in which they are published."""
        return (*self.audio, *self.records, *self.parts)


@dataclass(frozen=True)
class Published:
    """What `publish` sent, or would send."""

    to: str
    files: int
    bytes: int
    """all that is published"""
    sent_files: int
    sent_bytes: int
    removed: tuple[str, ...]
    """paths of earlier parts and audio that the output no longer has"""
    private: bool | None
    """whether only its owner sees it; None for a store"""
    dry_run: bool


def read_contents(storage: Storage, *, with_records: bool) -> Contents:
    """Reads from the ledger what is to be published.

    Args:
        storage: root of the output.
        with_records: dead letters, scores and records of runs too, so that a run can go on from a
            copy.

    Raises:
        SchemaError: an earlier version wrote the parts.
        PublishError: there is no clip.
    """

    def read() -> Contents:
        snapshot = take_snapshot(storage)
        schema = standing_schema(storage)
        if schema is None:
            raise PublishError(f"{storage!r} holds no clip: there is nothing to publish")
        figures = describe(storage, snapshot, None).figures
        audio = () if "audio" in schema.names else tuple(_audio_of(storage, snapshot))
        records: list[ObjectInfo] = []
        if with_records:
            runs = [info for info in storage.list("runs") if run_of_record(info.path)]
            records = [*snapshot.failed, *list_parts(storage, "scores"), *runs]
        return Contents(snapshot, schema, figures, audio, _items(snapshot.clips), _items(records))

    return on_steady_listing(read)


def _items(found: tuple[ObjectInfo, ...] | list[ObjectInfo]) -> tuple[Item, ...]:
    return tuple(Item(info.path, info.size) for info in found)


def _audio_of(storage: Storage, snapshot: Snapshot) -> Iterator[Item]:
    """The audio objects that parts name, each once, and the sidecars of those that have one."""
    sizes: dict[str, int] = {}

    def of_listed_size(path: str, sha256: str | None = None) -> Item:
        if not sizes:
            sizes.update((info.path, info.size) for info in storage.list("audio"))
        if path not in sizes:
            raise PublishError(
                f"{storage.uri(path)} is missing, and clips name it: `musicgen-batch verify "
                "--repair` has the next run make them again"
            )
        return Item(path, sizes[path], sha256)

    seen = set()
    for rows in read_in_order(storage, snapshot.clips, _AUDIO_COLUMNS):
        for row in rows.to_pylist():
            path = row["audio_path"]
            if path in seen:
                continue
            seen.add(path)
            if row["audio_member"] is not None:
                yield of_listed_size(path)
                continue
            if row.get("c2pa") == "sidecar":
                yield of_listed_size(sidecar_of(path), row["c2pa_sidecar_sha256"])
            yield Item(path, row["audio_bytes"], row["audio_sha256"])


@contextmanager
def described(
    storage: Storage, contents: Contents, address: str | None = None
) -> Iterator[tuple[Identity, Mapping[str, Path]]]:
    """The files that describe the dataset, by name, in a folder that is removed afterwards, with
    what the card says of it. Files of the output that somebody else wrote are taken as they are.

    Args:
        storage: root of the output.
        contents: what they describe.
        address: by which `load_dataset` opens the published dataset.
    """
    standing = read_standing(storage)
    snapshot, figures = contents.snapshot, contents.figures
    identity = new_identity(snapshot.state, figures, standing.card)
    title = address.rpartition("/")[2] if address else title_of(storage)
    with tempfile.TemporaryDirectory(prefix="musicgen-batch-") as name:
        folder = Path(name)
        files = {}
        if figures.layout == "files":
            files[METADATA] = _metadata(storage, contents, standing, folder / METADATA)
        texts = {
            CROISSANT: croissant.render(title, snapshot.state, contents.schema, figures),
            CARD: render_card(title, identity, contents.schema, figures, address),
        }
        for each, text in texts.items():
            data = storage.get(each) if each in standing.foreign else text.encode()
            files[each] = folder / each
            files[each].write_bytes(data)
        yield identity, files


def _metadata(storage: Storage, contents: Contents, standing: Standing, file: Path) -> Path:
    if METADATA in standing.foreign or standing.metadata_state == contents.snapshot.state:
        storage.fetch(METADATA, storage.size(METADATA) or 0, file)
    else:
        describe(storage, contents.snapshot, file)
    return file


def is_published_name(path: str) -> bool:
    """Whether an object of that name belongs to what is published: a part, or audio."""
    return part_name(path) is not None or is_audio(path)


def digest_of(file: Path) -> str:
    """The sha256 of a file."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def is_same_dataset(standing: str, identity: Identity, card: Path) -> bool:
    """Whether a place is an earlier publication of an output.

    Args:
        standing: the card that stands there.
        identity: of the output.
        card: what is published of it now.
    """
    found = identity_of(standing)
    if found is None:  # somebody else's card, published as it is
        return standing == card.read_text(encoding="utf-8", errors="replace")
    return found.dataset == identity.dataset


def refuse_others(to: str, stale: list[str]) -> None:
    """PublishError: the place holds parts or audio of another dataset."""
    raise PublishError(
        f"{to} holds {len(stale)} objects of another dataset (such as {min(stale)}), which "
        "would be mixed with this one: choose an empty place, or remove them there"
    )
