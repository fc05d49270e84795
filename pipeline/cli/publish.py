"""Commands that hand a dataset to others: card, publish."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.cli.options import storage_pairs
from pipeline.cli.speech import answer, say
from pipeline.cli.upkeep import held_lease, keep_current, on_output
from pipeline.config import ConfigError, check_location
from pipeline.config_file import fill_address
from pipeline.storage import Storage, open_storage
from pipeline.telemetry.words import counted

if TYPE_CHECKING:
    from pipeline.dataset.contents import Published


@click.command(epilog="Example: musicgen-batch card --output out/demo")
@click.option("--wait", is_flag=True, help="Wait for a run on this output to end.")
@on_output
def card(storage: Storage, wait: bool) -> None:
    """Write README.md, croissant.json and, for audio in files, metadata.parquet again.

    Runs keep them current; this writes metadata.parquet for any number of clips.
    """
    with held_lease(storage, wait, "card") as lease:
        written = keep_current(lease, force=True)
    where = [storage.uri(name) for name in written]
    answer("\n".join(where) or "nothing was written", {"written": where})


@click.command(
    epilog="""\b
Examples:
  musicgen-batch publish --output out/demo --to hf://datasets/USER/NAME
  musicgen-batch publish --output out/demo --to s3://bucket/demo --dry-run
"""
)
@click.option(
    "--to",
    required=True,
    help="hf://datasets/USER/NAME, or another store: a folder, s3:// or gs://.",
)
@click.option("--public", is_flag=True, help="On the hub: for everybody to see.")
@click.option("--dry-run", is_flag=True, help="Only say what would be sent.")
@click.option(
    "--to-storage-option",
    "to_options",
    multiple=True,
    metavar="KEY=VALUE",
    help="fsspec option of the other store; no credentials.",
)
@on_output
def publish(
    storage: Storage, to: str, public: bool, dry_run: bool, to_options: tuple[str, ...]
) -> None:
    """Send the dataset to the Hugging Face Hub, where it is private, or copy it to another store.

    Only what the ledger names is sent, with its card. A second call sends what is missing.
    """
    from pipeline.dataset.to_hub import SCHEME, HubAddressError, publish_to_hub
    from pipeline.dataset.to_store import publish_to_store

    place = fill_address(to, "--to")
    if place.startswith(SCHEME):
        try:
            done = publish_to_hub(storage, place, say, public=public, dry_run=dry_run)
        except HubAddressError as error:
            raise ConfigError(str(error)) from None
    else:
        if public:
            raise ConfigError("--public is for the hub; who may read a store is set in the store")
        target = open_storage(_absolute(check_location(place, "--to")), storage_pairs(to_options))
        done = publish_to_store(storage, target, say, dry_run=dry_run)
    answer(_words(done), asdict(done))


def _absolute(place: str) -> str:
    return place if "://" in place else str(Path(place).expanduser().absolute())


def _words(done: "Published") -> str:
    verb = "would send" if done.dry_run else "sent"
    text = (
        f"{done.to}: {verb} {done.sent_files} of {counted(done.files, 'file')} "
        f"({done.sent_bytes} of {done.bytes} bytes)"
    )
    if done.removed:
        text += (
            f"; {'would remove' if done.dry_run else 'removed'} {len(done.removed)} earlier ones"
        )
    if done.private is not None:
        text += f"; {'private' if done.private else 'public'}"
    return text
