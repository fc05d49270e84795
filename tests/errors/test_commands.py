"""What can't work is said in one message with its exit code, in the same process and outside."""

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.cli.root import main
from tests.errors.bad_things import (
    s3_server,
    silent_endpoint,
    without_credentials,
    wrong_credentials,
)
from tests.errors.case import Command, Place, check, fill, pattern, place
from tests.errors.commands import COMMANDS
from tests.errors.lines import GOOD_LINE, LINES

ROOT = Path(__file__).parents[2]
__all__ = ["place"]


STARTS_A_SERVER = {s3_server, wrong_credentials, without_credentials, silent_endpoint}
CASES = [
    pytest.param(
        command, id=command.what, marks=[pytest.mark.slow] if command.use in STARTS_A_SERVER else []
    )
    for command in COMMANDS
]


@pytest.mark.parametrize("command", CASES)
def test_a_bad_command_is_one_message_and_an_exit_code(command: Command, place: Place) -> None:
    check(command, place)


OUTSIDE = ("a manifest cut short", "a config key that does not exist", "a flag with nonsense")


@pytest.mark.slow
@pytest.mark.parametrize("what", OUTSIDE)
def test_the_same_holds_for_a_process(what: str, place: Place) -> None:
    (command,) = [command for command in COMMANDS if command.what == what]
    if command.use is not None:
        command.use(place)

    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", *fill(command.arguments, place.folder).split(" ")],
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip

    assert done.returncode == command.code
    assert pattern(fill(command.says, place.folder)).search(done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_every_bad_line_of_a_text_manifest_is_reported_at_once(place: Place) -> None:
    lines = [GOOD_LINE, *(line.text for line in LINES)]
    place["in.jsonl"].write_text("\n".join(lines))

    result = CliRunner().invoke(main, ["manifest", "check", str(place["in.jsonl"])])

    assert result.exit_code == 2
    for number, line in enumerate(LINES, start=2):
        said = [text for text in result.output.splitlines() if f" line {number} " in text]
        assert len(said) == 1, result.output
        assert pattern(f"in.jsonl {line.says}").fullmatch(said[0]), said
    assert f"{len(LINES)} of {len(lines)} rows rejected; see" in result.output
