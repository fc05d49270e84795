"""The command line: `musicgen-batch ...`. Nothing heavy is imported before the input is checked."""

import logging
import os
import sys
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.browse import browse
from pipeline.cli.doctor import doctor
from pipeline.cli.errors import errors_to_exit_codes
from pipeline.cli.manifest import manifest
from pipeline.cli.marks import marks
from pipeline.cli.models import convert, models
from pipeline.cli.options import JobCommand, given_flags, job_options, local_option
from pipeline.cli.publish import card, publish
from pipeline.cli.scores import score
from pipeline.cli.speech import answer, is_quiet, say, speech_options, wants_json, warn
from pipeline.cli.submit import submit
from pipeline.cli.upkeep import compact, continued_config, gc, report, status, verify
from pipeline.config import JobConfig
from pipeline.config_file import load_config, names_output
from pipeline.storage import Storage, open_storage
from pipeline.telemetry.words import counted

if TYPE_CHECKING:
    from pipeline.run_record import RunSummary

FAILURES_SHOWN = 5
_EXAMPLES = """\b
Examples:
  musicgen-batch manifest build prompts.csv prompts.parquet
  musicgen-batch run --manifest prompts.parquet --output out/first --model tiny
  musicgen-batch run --manifest s3://b/prompts.parquet --output s3://b/music \\
      --model facebook/musicgen-small --replicas 8 --gpus-per-replica 1 --slots 32
  musicgen-batch status --output s3://b/music
  musicgen-batch retry --manifest prompts.parquet --output out/first
"""


@click.group(epilog=_EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="musicgen-batch")
def main() -> None:
    """A manifest of prompts becomes a dataset of music: resumable MusicGen batches on Ray."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")


# --- making music


@main.command(
    cls=JobCommand,
    epilog="""\b
Examples:
  musicgen-batch run --manifest demo.parquet --output out/demo --model tiny
  musicgen-batch run --config job.yaml --manifest demo.parquet --output s3://b/music \\
      --storage-option endpoint_url=http://localhost:7480
""",
)
@job_options
@local_option
@speech_options
@errors_to_exit_codes
def run(config: str | None, **flags: Any) -> None:
    """Make every clip of a manifest that the output does not hold yet."""
    _make(load_config(config, given_flags(flags)), retry=False)


@main.command(
    cls=JobCommand,
    epilog="""\b
Example:
  musicgen-batch retry --manifest demo.parquet --output out/demo
""",
)
@job_options
@local_option
@speech_options
@errors_to_exit_codes
def retry(config: str | None, **flags: Any) -> None:
    """Try again only the rows whose dead letter stands.

    Settings that are not given are those of the output's last run.
    """
    _make(continued_config(config, given_flags(flags)), retry=True)


@main.command(
    cls=JobCommand,
    epilog="""\b
Examples:
  musicgen-batch plan --manifest demo.parquet --model tiny
  musicgen-batch plan --manifest demo.parquet --output out/demo --json
  musicgen-batch plan --config job.yaml --manifest s3://b/prompts.parquet --output s3://b/music \\
      --per-gpu-hour 2.5 --per-gb-month 0.023 --per-1000-requests 0.005
""",
)
@job_options
@speech_options
@errors_to_exit_codes
def plan(config: str | None, **flags: Any) -> None:
    """Count what a run would do, how long it may take and what it costs; loads no model, writes
    nothing.

    Without --output, or with one that does not exist yet, every clip counts as still to make.
    Settings that are not given are those of the output's last run.
    """
    from pipeline import job
    from pipeline.planning.estimate import describe_estimate
    from pipeline.planning.scan import describe_plan

    given = given_flags(flags)
    if "output" not in given and not (config and names_output(config)):
        given["output"] = "memory://nothing-yet"
    settings = continued_config(config, given, may_be_new=True)
    planned = job.plan(settings)
    found = planned.plan
    counts = {"rows": found.n_rows, "pending_audio_s": found.pending_audio_s}
    lines = [describe_plan(found)]
    lines += [f"  would fail: {letter.message}" for letter in found.letters[:20]]
    lines += describe_estimate(planned.estimate, settings.cluster.replicas)
    answer("\n".join(lines), counts | dict(found.outcomes) | planned.estimate.as_json())


def _make(config: JobConfig, *, retry: bool) -> None:
    """Runs the job and says how it ended."""
    if config.run.runtime == "ray":
        # Else a thread that a drain leaves behind connects to Ray anew while the process ends.
        os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
    from pipeline import job

    progress = None if is_quiet() else sys.stderr
    summary = job.run(config, retry=retry, say=say, progress=progress)
    if wants_json():
        answer("", summary.facts())
    elif summary.drained:
        say(_words_of_drained(summary))
    elif not is_quiet():
        storage = open_storage(config.run.output, config.run.storage_options)
        answer(_closing_words(summary, storage), {})
    elif summary.dead_letters_standing:
        warn(_words_of_dead_letters(summary))
    if summary.exit_code:
        raise click.exceptions.Exit(summary.exit_code)


def _words_of_drained(summary: "RunSummary") -> str:
    if not summary.plan.is_whole:
        return (
            f"drained ({summary.drained}) while the manifest was scanned: no clip was begun; the "
            "same command starts again"
        )
    return (
        f"drained ({summary.drained}): {summary.clips} of "
        f"{counted(summary.plan.pending, 'clip')} made, in {summary.clips_uri}; "
        f"{summary.failed} failed, {summary.left} left; the same command goes on from there"
    )


def _closing_words(summary: "RunSummary", storage: Storage) -> str:
    tally = summary.tally
    lines = []
    if summary.plan.pending:
        lines.append(
            f"{counted(tally.clips, 'clip')} made, {tally.failed} failed, "
            f"{tally.audio_s:.1f} s of audio in {tally.wall_s:.1f} s: {tally.rate:.2f} "
            f"audio-seconds per second after a start-up of {summary.startup_s:.1f} s"
        )
    elif not summary.plan.letters:
        lines.append("nothing to make: every clip is done or stands as a dead letter")
    if summary.dead_letters_standing:
        lines += _failures(storage)
        lines.append(_words_of_dead_letters(summary))
    lines.append(f"dataset: {summary.clips_uri}")
    lines.append(f"look and listen: {summary.report_uri}")
    return "\n".join(lines)


def _words_of_dead_letters(summary: "RunSummary") -> str:
    n = summary.dead_letters_standing
    return (
        f"{counted(n, 'dead letter')} of this manifest {'stands' if n == 1 else 'stand'} (one per "
        f"row or take): see {summary.failed_uri}, mend the rows, then `musicgen-batch retry`"
    )


def _failures(storage: Storage) -> list[str]:
    """The latest dead letters, as many as people read."""
    from pipeline import ledger

    letters = ledger.read_dead_letters(storage).sort_by([("created_at", "descending")])
    shown = [f"failed: {text}" for text in letters["message"].slice(0, FAILURES_SHOWN).to_pylist()]
    left = letters.num_rows - len(shown)
    return [*shown, f"... and {left} more"] if left > 0 else shown


for _command in (
    *(submit, doctor, manifest, models, convert, marks, status, verify, compact, gc, report),
    *(card, publish, score, browse),
):
    main.add_command(_command)
