"""`musicgen-batch manifest build | check`: from a table of prompts to a manifest without faults."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import click

from manifests.schema import RowIssue
from pipeline.cli.errors import EXIT_BAD_INPUT, errors_to_exit_codes
from pipeline.cli.options import reference_options, reference_policy, storage_pairs
from pipeline.cli.speech import answer, speech_options, verbose_option, wants_json, warn
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


@click.group()
def manifest() -> None:
    """Build and check manifests."""


@manifest.command(
    epilog="""\b
Examples:
  musicgen-batch manifest build prompts.csv prompts.parquet
  musicgen-batch manifest build prompts.jsonl s3://bucket/prompts.parquet
"""
)
@click.argument("source", metavar="IN.(jsonl|csv)")
@click.argument("target", metavar="OUT.parquet")
@_shared_options
@errors_to_exit_codes
def build(
    source: str, target: str, extra_columns: tuple[str, ...], storage_options: tuple[str, ...]
) -> None:
    """Write the Parquet manifest of a JSONL or CSV file, unless anything is wrong with it.

    Relative references are rewritten so that they count from the folder of OUT.
    """
    from manifests.build import build as build_manifest

    built = build_manifest(
        check_location(source, "IN"),
        check_location(target, "OUT"),
        storage_options=storage_pairs(storage_options),
        extra_columns=extra_columns,
        reserved=RESERVED_COLUMNS,
    )
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
    **policy: Any,
) -> None:
    """Report every error of every row at once; exits 2 if there is one.

    IN is a .parquet, .jsonl or .csv file, or a folder of Parquet files. The rejected rows are
    written with their reasons.
    """
    from manifests.check import check as check_manifest
    from pipeline.config_file import load_defaults

    limits = None
    if model is not None:
        from musicgen.checkpoints.describe import describe
        from pipeline.planning.model_limits import checked_model

        limits = checked_model(describe(model))
    report = check_manifest(
        check_location(source, "IN"),
        storage_options=storage_pairs(storage_options),
        extra_columns=extra_columns,
        reserved=RESERVED_COLUMNS,
        defaults=load_defaults(duration_s),
        limits=limits,
        read_audio=reference_policy(policy) if read_audio else False,
        rejects_uri=rejects or f"{source.rstrip('/')}.rejects.parquet",
    )
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


def _complain(source: str, column_faults: tuple[str, ...], issues: tuple[RowIssue, ...]) -> None:
    for fault in column_faults:
        warn(f"{source}: {fault}")
    for issue in issues[:_SHOWN]:
        warn(issue.message)
    if len(issues) > _SHOWN:
        warn(f"... and {len(issues) - _SHOWN} more")
