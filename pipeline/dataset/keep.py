"""Keeps what describes an output current: `README.md`, `croissant.json` and `metadata.parquet`.

Each of them names the state that it is of (`snapshot.Snapshot`), and is written again where the
output has another one. Files of these names that somebody else wrote stay.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from pipeline.dataset import croissant, metadata
from pipeline.dataset.card import Identity, identity_of, new_identity, render_card
from pipeline.dataset.metadata import MetadataFile
from pipeline.dataset.snapshot import (
    FIGURE_COLUMNS,
    Figures,
    Snapshot,
    read_in_order,
    take_snapshot,
)
from pipeline.ledger.lease import Lease
from pipeline.ledger.names import CARD, CROISSANT, METADATA
from pipeline.ledger.output_schema import standing_schema
from pipeline.ledger.parts import on_steady_listing
from pipeline.ledger.reader import read_dead_letters
from pipeline.ledger.settings import MOST_METADATA_CLIPS
from pipeline.storage import ObjectNotFoundError, Storage, redact

Say = Callable[[str], None]


@dataclass(frozen=True)
class Standing:
    """Which of the files an output has. The state of a file that somebody else wrote is None.

    Attributes:
        card: what our card says.
        foreign: names of those that somebody else wrote.
    """

    card: Identity | None
    croissant_state: str | None
    metadata_state: str | None
    foreign: frozenset[str]

    def stale(self, state: str, metadata_clips: int | None) -> set[str]:
        """Which files are to be written for a state. Those of somebody else are among them.

        Whether `metadata.parquet` is written was decided with the card; it is asked again where
        the limit has been raised since.
        """
        found = set()
        if self.card is None or self.card.state != state:
            found.add(CARD)
        if self.croissant_state != state:
            found.add(CROISSANT)
        if self.metadata_state != state and metadata_clips != 0:
            if {CARD, CROISSANT} <= found:
                found.add(METADATA)
            elif CARD not in found and self.card is not None and self.card.layout == "files":
                few = metadata_clips is None or self.card.clips <= metadata_clips
                found |= {METADATA} if few else set()
        return found


@dataclass(frozen=True)
class Description:
    """What the files tell: a snapshot, its columns and its figures."""

    snapshot: Snapshot
    schema: pa.Schema | None
    figures: Figures


def refresh(
    lease: Lease,
    say: Say,
    *,
    metadata_clips: int | None = MOST_METADATA_CLIPS,
    force: bool = False,
) -> list[str]:
    """Writes again what is not current.

    Args:
        lease: of the output, held: nobody else commits meanwhile.
        say: told in a sentence what is left as it is, and why.
        metadata_clips: `metadata.parquet` is not written for more clips; None: for any number.
        force: write all anew.

    Returns:
        Names of the files that were written.
    """
    storage = lease.storage
    snapshot, standing = take_snapshot(storage), read_standing(storage)
    if not snapshot.clips and not snapshot.failed:
        return []
    stale = standing.stale(snapshot.state, metadata_clips)
    if force:
        stale = {CARD, CROISSANT, METADATA}
    for name in sorted(stale & standing.foreign):
        say(_words_of_foreign(storage, name))
    stale -= standing.foreign
    if not stale:
        return []
    written = []
    with tempfile.TemporaryDirectory(prefix="musicgen-batch-") as folder:
        file = Path(folder) / METADATA if METADATA in stale else None
        found = describe(storage, snapshot, file, metadata_clips)
        figures = found.figures
        if file is not None and figures.layout == "files":
            if file.exists():
                lease.check()
                storage.put_file(METADATA, file)
                written.append(METADATA)
            else:
                say(_words_of_many(storage, figures.clips, metadata_clips))
    title = title_of(storage)
    identity = new_identity(snapshot.state, figures, standing.card)
    texts = {
        CROISSANT: croissant.render(title, snapshot.state, found.schema, figures),
        CARD: render_card(title, identity, found.schema, figures),
    }
    for name in sorted(stale & set(texts), reverse=True):
        lease.check()
        storage.put(name, texts[name].encode())
        written.append(name)
    lease.check()
    return written


def describe(
    storage: Storage, snapshot: Snapshot, file: Path | None, metadata_clips: int | None = None
) -> Description:
    """Reads the parts of a snapshot once.

    Args:
        storage: root of the output.
        snapshot: its parts.
        file: where `metadata.parquet` goes, if it is wanted; absent afterwards where there are more
            clips than `metadata_clips`, or none with its audio in a file.
        metadata_clips: no limit by default.
    """
    schema = on_steady_listing(lambda: standing_schema(storage, migrate=True))
    inside = schema is not None and "audio" in schema.names
    figures = Figures()
    with ExitStack() as stack:
        table: MetadataFile | None = None
        if file is not None and schema is not None and not inside:
            table = stack.enter_context(MetadataFile(file, schema, snapshot.state))
        names = FIGURE_COLUMNS if table is None or schema is None else schema.names
        for rows in read_in_order(storage, snapshot.clips, names):
            figures.add(rows, inside=inside)
            if table is not None and (metadata_clips is None or figures.clips <= metadata_clips):
                table.add(rows)
    if table is not None and file is not None:
        many = metadata_clips is not None and figures.clips > metadata_clips
        if many or not table.n_rows:
            file.unlink()
    if snapshot.failed:
        figures.dead_letters = read_dead_letters(storage).num_rows
    return Description(snapshot, schema, figures)


def read_standing(storage: Storage) -> Standing:
    """Which of the files lie in an output, and who wrote them."""
    foreign = set()
    card, croissant_state = None, None
    if (text := _text(storage, CARD)) is not None and (card := identity_of(text)) is None:
        foreign.add(CARD)
    if (text := _text(storage, CROISSANT)) is not None:
        croissant_state = croissant.state_of(text)
        if croissant_state is None:
            foreign.add(CROISSANT)
    there, metadata_state = metadata.standing_state(storage)
    if there and metadata_state is None:
        foreign.add(METADATA)
    return Standing(card, croissant_state, metadata_state, frozenset(foreign))


def title_of(storage: Storage) -> str:
    """What a dataset is called: as the folder that it lies in."""
    return redact(storage.root).rstrip("/").rpartition("/")[2] or "dataset"


def _text(storage: Storage, name: str) -> str | None:
    try:
        return storage.get(name).decode(errors="replace")
    except ObjectNotFoundError:
        return None


def _words_of_foreign(storage: Storage, name: str) -> str:
    lost = {
        CARD: "`load_dataset` of the folder needs its `configs`",
        CROISSANT: "no Croissant metadata is written",
        METADATA: "`load_dataset` of the folder needs it for audio in files",
    }
    return (
        f"warning: {storage.uri(name)} was not written by this program and stays as it is "
        f"({lost[name]}); move it away, then `musicgen-batch card` with this --output writes ours"
    )


def _words_of_many(storage: Storage, clips: int, limit: int | None) -> str:
    return (
        f"{storage.uri(METADATA)}, by which `load_dataset` opens audio files, is not written for "
        f"{clips} clips (--metadata-clips {limit}): `musicgen-batch card` with this --output "
        "writes it"
    )
