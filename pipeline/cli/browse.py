"""The command that serves a page to search, hear, compare and rate an output."""

import webbrowser
from pathlib import Path
from typing import Any

import click

from manifests.uris.policy import ReferencePolicy
from pipeline.cli.speech import say
from pipeline.cli.upkeep import on_output
from pipeline.config import ConfigError
from pipeline.storage import Storage


@click.command(
    epilog="""\b
Examples:
  musicgen-batch browse --output out/demo
  musicgen-batch browse --output s3://bucket/music --port 8123 --no-open
"""
)
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Default: a free one.")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="An address of this machine alone: 127.0.0.1, ::1 or localhost.",
)
@click.option("--open/--no-open", "opens", default=True, help="Open the page in a browser.")
@click.option(
    "--ratings-folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where ratings go if the output can't be written to.  [default: ~/.local/share]",
)
@click.option(
    "--allow-local-references",
    is_flag=True,
    help="Let an output in an object store name audio files of this machine as its references.",
)
@on_output
def browse(
    storage: Storage,
    port: int,
    host: str,
    opens: bool,
    ratings_folder: Path | None,
    allow_local_references: bool,
) -> None:
    """Search, hear, compare and rate the clips of an output, in a page on this machine.

    Also while a run goes on: new clips appear by themselves. The address that is printed holds a
    token; only who has it gets in. Ctrl-C ends the page.
    """
    from pipeline.dataset.browse.serve import BrowseError, serving

    options: dict[str, Any] = {"host": host, "port": port, "ratings_folder": ratings_folder}
    policy = ReferencePolicy(allow_local_references=allow_local_references)
    try:
        with serving(storage, policy=policy, **options) as served:
            click.echo(served.url)
            say("Ctrl-C ends the page")
            if opens:
                webbrowser.open(served.url)
            served.run()
    except BrowseError as error:
        raise ConfigError(str(error)) from error
