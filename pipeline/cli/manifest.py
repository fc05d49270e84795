"""`musicgen-batch manifest build | check`: from a table of prompts to a manifest without faults."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, get_args

import click

from manifests.schema import RowIssue
from manifests.sources.options import Reading, Source, reading
from manifests.uris.suffixes import Form
from pipeline.cli.errors import EXIT_BAD_INPUT, errors_to_exit_codes
from pipeline.cli.options import reference_options, reference_policy, storage_pairs
from pipeline.cli.speech import answer, say, speech_options, verbose_option, wants_json, warn
from pipeline.config import check_location
from pipeline.ledger.schema import RESERVED_COLUMNS
from pipeline.telemetry.words import counted

_SHOWN = 100  # issues printed; the rejects file holds all


def _shared_options(command: Callable[..., None]) -> Callable[..., None]:
    extra = click.option(
        "--extra-column",
        "extra_columns",
        multiple=True,
        metavar="NAME",
        help="Carry this column through although it looks like a misspelling.",
    )
    storage = click.option(
        "--storage-option",
        "storage_options",
        multiple=True,
        metavar="KEY=VALUE",
        help="fsspec option, e.g. endpoint_url=http://localhost:7480; no credentials.",
    )
    return extra(storage(speech_options(verbose_option(command))))


def _reading_options(command: Callable[..., None]) -> Callable[..., None]:
    """How tables are read; `_reading` takes the values."""
    options = (
        click.option(
            "--map",
            "columns",
            multiple=True,
            metavar="NAME=COLUMN",
            help="Fill a column of the manifest from a column of another name, or with a value in "
            "every row: --map prompt=caption --map duration_s=30.",
        ),
        click.option(
            "--delimiter",
            metavar="CHAR",
            help="What separates the fields of CSV: a character, or tab. [default: found out]",
        ),
        click.option(
            "--encoding",
            metavar="NAME",
            help="Encoding of text, e.g. latin-1. [default: by its byte order mark, or UTF-8]",
        ),
        click.option(
            "--format",
            "form",
            type=click.Choice(get_args(Form)),
            help="What the files are, whatever their names say. [default: by the name; of "
            "standard input by its first bytes]",
        ),
        click.option("--sheet", metavar="NAME", help="Sheet of a workbook. [default: the first]"),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _reading(values: dict[str, Any]) -> Reading:
    names = ("columns", "delimiter", "encoding", "form", "sheet")
    return reading(**{name: values.pop(name) for name in names})


@click.group()
def manifest() -> None:
    """Build and check manifests."""


@manifest.command(
    epilog="""\b
Examples:
  musicgen-batch manifest build prompts.csv prompts.parquet
  musicgen-batch manifest build 'lists/*.jsonl.gz' s3://bucket/prompts.parquet
  musicgen-batch manifest build captions.tsv --map prompt=caption --map duration_s=30 m.parquet
  zcat prompts.csv.gz | musicgen-batch manifest build - prompts.parquet
  musicgen-batch manifest build --matrix 'genre=jazz,techno' --matrix 'cfg_coef=2,3,4' \\
      --wordlist mood=moods.txt --template 'a {mood} {genre} track' --sample 100 sweep.parquet
"""
)
@click.argument("paths", metavar="[IN]... OUT.parquet", nargs=-1, required=True)
@_reading_options
@click.option(
    "--matrix",
    multiple=True,
    metavar="NAME=VALUE,VALUE",
    help="Make a row of each combination of these values with those of the other axes. Names of "
    "manifest columns become those columns, others extra columns.",
)
@click.option(
    "--wordlist",
    "wordlists",
    multiple=True,
    metavar="NAME=FILE",
    help="The same, with the values in a file, one per line.",
)
@click.option("--template", metavar="TEXT", help="The prompt, with names of columns in {braces}.")
@click.option("--sample", type=int, metavar="N", help="Draw N combinations. [default: all]")
@click.option("--seed", type=int, default=0, show_default=True, help="Decides which are drawn.")
@_shared_options
@errors_to_exit_codes
def build(
    paths: tuple[str, ...],
    extra_columns: tuple[str, ...],
    storage_options: tuple[str, ...],
    **values: Any,
) -> None:
    """Write one Parquet manifest of tables, unless anything is wrong with them.

    IN is CSV, TSV, JSON, JSON Lines (each also .gz or .zst), XLSX, Parquet or Arrow: a file, a
    glob, a folder, a Hugging Face dataset, or - for standard input. Relative references are
    rewritten so that they count from the folder of OUT.
    """
    from manifests.build import build as build_manifest
    from manifests.sources.sweep_flags import make_sweep

    *sources, target = (check_location(path, "IN or OUT") for path in paths)
    options = storage_pairs(storage_options)
    how = _reading(values)
    built = build_manifest(
        sources,
        target,
        reading=how,
        sweep=make_sweep(**values, storage_options=options, has_rows=bool(sources)),
        storage_options=options,
        extra_columns=extra_columns,
        reserved=RESERVED_COLUMNS,
    )
    source = ", ".join(sources) or "the sweep"
    for note in built.notes:
        say(note)
    if built.out_uri is None:
        _complain(source, built.column_faults, built.issues)
        warn(f"{target} was not written; mend {source} and build again")
        if wants_json():
            answer("", _faults(built.column_faults, built.issues) | {"target": None})
        raise click.exceptions.Exit(EXIT_BAD_INPUT)
    extras = f", extra columns: {', '.join(built.extra_columns)}" if built.extra_columns else ""
    facts = {
        "target": built.out_uri,
        "rows": built.n_rows,
        "clips": built.n_clips,
        "extra_columns": list(built.extra_columns),
        "ok": True,
    }
    held = f"{counted(built.n_rows, 'row')}, {counted(built.n_clips, 'clip')}"
    answer(f"{target}: {held}{extras}", facts)


@manifest.command(
    epilog="""\b
Examples:
  musicgen-batch manifest check prompts.parquet
  musicgen-batch manifest check prompts.csv --read-audio --model facebook/musicgen-melody
  musicgen-batch manifest check prompts.csv --read-audio --allow-private-hosts
"""
)
@click.argument("source", metavar="IN")
@click.option("--read-audio", is_flag=True, help="Also open and decode every reference.")
@click.option("--model", help="Also check against what this checkpoint can do.")
@click.option("--duration-s", type=float, help="What rows without a duration get. [default: 10.0]")
@click.option(
    "--rejects", metavar="OUT.parquet", help="Where rejected rows go. [default: IN.rejects.parquet]"
)
@_reading_options
@reference_options
@_shared_options
@errors_to_exit_codes
def check(
    source: str,
    read_audio: bool,
    model: str | None,
    duration_s: float | None,
    rejects: str | None,
    extra_columns: tuple[str, ...],
    storage_options: tuple[str, ...],
    **values: Any,
) -> None:
    """Report every error of every row at once; exits 2 if there is one.

    IN is a Parquet file, a folder or a glob of them, or what `manifest build` reads. The rejected
    rows are written with their reasons.
    """
    from manifests.check import check as check_manifest
    from pipeline.config_file import load_defaults

    limits = None
    if model is not None:
        from musicgen.checkpoints.describe import describe
        from pipeline.planning.model_limits import checked_model

        limits = checked_model(describe(model))
    how = _reading(values)
    report = check_manifest(
        Source(check_location(source, "IN"), how),
        storage_options=storage_pairs(storage_options),
        extra_columns=extra_columns,
        reserved=RESERVED_COLUMNS,
        defaults=load_defaults(duration_s),
        limits=limits,
        read_audio=reference_policy(values) if read_audio else False,
        rejects_uri=rejects or _rejects_beside(source),
    )
    for note in report.notes:
        say(note)
    if report.ok:
        held = f"{counted(report.n_rows, 'row')}, {counted(report.n_clips, 'clip')}"
        facts = {"source": source, "rows": report.n_rows, "clips": report.n_clips, "ok": True}
        answer(f"{source}: {held}, no errors", facts)
        return
    _complain(source, report.column_faults, report.issues)
    if report.rejects_uri:
        rows = counted(report.n_rows, "row")
        warn(f"{report.n_rejected} of {rows} rejected; see {report.rejects_uri}")
    if report.rejects_fault:
        warn(f"{report.rejects_fault}; name another place with --rejects")
    if wants_json():
        found = {
            "source": source,
            "rows": report.n_rows,
            "clips": report.n_clips,
            "rejected": report.n_rejected,
            "rejects": report.rejects_uri,
        }
        answer("", found | _faults(report.column_faults, report.issues))
    raise click.exceptions.Exit(EXIT_BAD_INPUT)


def _faults(column_faults: tuple[str, ...], issues: tuple[RowIssue, ...]) -> dict[str, Any]:
    """What is wrong, for programs: all of it."""
    return {
        "ok": False,
        "column_faults": list(column_faults),
        "issues": [asdict(issue) | {"message": issue.message} for issue in issues],
    }


def _rejects_beside(source: str) -> str:
    """Where rejected rows go unless it is said: beside the manifest, or into the working folder."""
    name = source.rstrip("/")
    if source == "-":
        name = "stdin"
    elif any(letter in name for letter in "*?["):
        name = "rows"
    return f"{name}.rejects.parquet"


def _complain(source: str, column_faults: tuple[str, ...], issues: tuple[RowIssue, ...]) -> None:
    for fault in column_faults:
        warn(f"{source}: {fault}")
    for issue in issues[:_SHOWN]:
        warn(issue.message)
    if len(issues) > _SHOWN:
        warn(f"... and {len(issues) - _SHOWN} more")
