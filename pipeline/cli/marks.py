"""`musicgen-batch marks`: what marking clips needs beside a run."""

from pathlib import Path

import click

from pipeline.cli.errors import errors_to_exit_codes
from pipeline.cli.speech import answer, say, speech_options, verbose_option


@click.group()
def marks() -> None:
    """Keys for marking clips; see docs/marking.md."""


@marks.command(
    name="test-certificate",
    epilog="""\b
Example:
  musicgen-batch marks test-certificate --out keys
""",
)
@click.option(
    "--out",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the two files; neither is overwritten.",
)
@click.option(
    "--days",
    type=click.FloatRange(0, 36_500, min_open=True),
    default=365.0,
    show_default=True,
    help="How long the certificate is valid.",
)
@speech_options
@verbose_option
@errors_to_exit_codes
def test_certificate(out: Path, days: float) -> None:
    """Make a key and a self-signed certificate to try C2PA signatures with.

    Nobody but you trusts it: for clips that others are to believe, take a certificate of an
    authority on the C2PA trust list.
    """
    from pipeline.audio.marks.credentials import CERTIFICATE, KEY, refuse_without_c2pa
    from pipeline.audio.marks.trial_pair import write_trial_pair

    refuse_without_c2pa("a pair for C2PA is to be made")
    key, certificate = (path.absolute() for path in write_trial_pair(out, days))
    answer(
        f"export {KEY}={key}\nexport {CERTIFICATE}={certificate}",
        {"key": str(key), "certificate": str(certificate), "days": days},
    )
    say("self-signed, for trials only: set these two variables, and `run` signs its clips")
