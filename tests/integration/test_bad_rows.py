"""One job with every bad row of the table: each becomes its dead letter, all others are made."""

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pipeline import ledger
from pipeline.cli.root import main
from pipeline.storage import open_storage
from tests.errors.case import Command, Place, Row, check, fill, pattern, place
from tests.errors.commands import CLUSTER
from tests.errors.rows import BAD, GOOD, write_rows
from tests.integration.jobs import clips, problems

__all__ = ["place"]
pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.s3]


@pytest.fixture(scope="module")
def job(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    folder = tmp_path_factory.mktemp("rows")
    result = CliRunner().invoke(
        main,
        ["run", "--manifest", str(write_rows(folder)), "--output", str(folder / "out"),
         "--model", "tiny", "--slots", "1", "--interval-s", "1", "--report-sample", "1"],
    )  # fmt: skip
    return result, folder


@pytest.fixture(scope="module")
def letters(job: tuple[Result, Path]) -> dict[int, dict[str, Any]]:
    """Dead letters by row number."""
    failed = ledger.read_dead_letters(open_storage(str(job[1] / "out")))
    return {letter["row"]: letter for letter in failed.to_pylist()}


def test_good_rows_beside_bad_ones_are_all_made(job: tuple[Result, Path]) -> None:
    result, folder = job
    output = str(folder / "out")

    assert result.exit_code == 3, result.output
    assert sorted(clip["id"] for clip in clips(output)) == sorted(row["id"] for row in GOOD)
    assert problems(output) == []
    assert "Traceback" not in result.output
    assert f"{len(BAD)} dead letters of this manifest stand" in result.output
    assert "mend the rows, then `musicgen-batch retry`" in result.output


@pytest.mark.parametrize("row", BAD, ids=lambda row: row.what)
def test_a_bad_row_says_what_is_wrong_and_what_to_do(
    row: Row, letters: dict[int, dict[str, Any]], job: tuple[Result, Path]
) -> None:
    number = len(GOOD) + BAD.index(row)
    letter = letters[number]

    assert letter["message"].startswith(f"rows.parquet row {number} (id=")
    said = letter["message"].partition("): ")[2]
    assert pattern(fill(row.says, job[1])).fullmatch(said), said
    assert pattern(row.error_class).fullmatch(letter["error_class"]), letter["error_class"]
    assert "Traceback" not in letter["message"]


def test_there_is_one_dead_letter_per_bad_row(letters: dict[int, dict[str, Any]]) -> None:
    assert len(letters) == len(BAD)


def test_what_an_id_says_never_becomes_a_path(job: tuple[Result, Path]) -> None:
    written = [path.relative_to(job[1] / "out").as_posix() for path in (job[1] / "out").rglob("*")]
    assert not [path for path in written if "passwd" in path or "noche" in path]


@pytest.mark.parametrize("command", CLUSTER, ids=lambda command: command.what)
def test_what_no_node_can_hold_is_said_at_once(command: Command, place: Place) -> None:
    check(command, place)
