"""Two writers, clocks that differ, an upload that lands late, a process that stops for a while."""

from __future__ import annotations

import os
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.cli.root import main
from pipeline.ledger import list_parts
from pipeline.ledger.lease import Lease
from pipeline.ledger.verify import verify
from pipeline.storage import open_storage
from tests.integration.jobs import Cli, run_here, wait_until, write_manifest
from tests.pipeline.outputs import committed_ids
from tests.reliability.attempts import attempt
from tests.reliability.outcomes import Outcome, fault

pytestmark = pytest.mark.slow

IDS = [f"r{i}" for i in range(6)]


def rows(duration_s: float = 0.1) -> list[dict[str, object]]:
    return [{"id": id, "prompt": f"song {id}", "duration_s": duration_s} for id in IDS]


@fault("writers/two", "a second run on an output to which one is writing", "from its start")
def test_a_second_writer_is_refused(tmp_path: Path, outcome: Outcome) -> None:
    manifest, output = write_manifest(tmp_path / "m.parquet", rows()), f"file://{tmp_path}/out"
    with Lease.acquire(open_storage(output), ttl_s=1.0) as lease:
        lease.start_heartbeat()
        refused, said = attempt(run_here, manifest, output, lease_ttl_s=1.0)
    then, _ = attempt(run_here, manifest, output)

    outcome.told(
        "error: run on …, process … is writing to …; let it finish, or follow it with --wait", said
    )
    outcome.ended(output, IDS, exits=[refused, then])


@pytest.mark.long
@fault(
    "process/driver-stopped",
    "the driver stands still (SIGSTOP) and goes on later",
    "in mid-run, until another run has taken the output over",
)
def test_a_run_that_was_taken_over_writes_no_more(
    tmp_path: Path, cli: Cli, outcome: Outcome
) -> None:
    manifest, output = write_manifest(tmp_path / "m.parquet", rows(3.0)), f"file://{tmp_path}/out"
    settings = {"lease_ttl_s": 1.0, "part_clips": 1, "slots": 1, "local": True, "verbose": True}
    storage = open_storage(output)
    first = cli.start(*cli.job("run", manifest, output, **settings))
    wait_until(lambda: len(committed_ids(storage)) >= 1)
    os.killpg(first.pid, signal.SIGSTOP)
    then, _ = attempt(run_here, manifest, output, lease_ttl_s=1.0)
    os.killpg(first.pid, signal.SIGCONT)
    code = first.wait(timeout=60)

    said = cli.said(first)
    outcome.told("error: another run took over …; nothing that was committed is lost", said)
    begun = outcome.admissions.n + said.count("INFO admitted ")
    outcome.ended(output, IDS, exits=[code, then], admitted=begun, redone_at_most=3)


class Clock(datetime):
    """The clock of a machine that is a day early or late."""

    days = 0

    @classmethod
    def now(cls, tz: object = None) -> datetime:
        return datetime.now(UTC) + timedelta(days=cls.days)


TOO_LOUD = {"qc": {"max_true_peak_dbtp": -90.0}}


@pytest.mark.parametrize(
    "days",
    [
        pytest.param(
            1,
            marks=fault(
                "writers/clock-early", "a clock that is a day early", "the first of two runs"
            ),
        ),
        pytest.param(
            -1,
            marks=fault(
                "writers/clock-late", "a clock that is a day late", "the first of two runs"
            ),
        ),
    ],
)
def test_clocks_may_be_a_day_apart(
    days: int, tmp_path: Path, outcome: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that failed by one clock are made by another."""
    manifest, output = write_manifest(tmp_path / "m.parquet", rows()), f"file://{tmp_path}/out"
    with monkeypatch.context() as patch:
        patch.setattr(Clock, "days", days)
        patch.setattr("pipeline.planning.clips.datetime", Clock)
        patch.setattr("pipeline.replica.clip_rows.datetime", Clock)
        first, _ = attempt(run_here, manifest, output, **TOO_LOUD)
    retried, said = attempt(run_here, manifest, output, retry=True)
    again, _ = attempt(run_here, manifest, output)

    outcome.told("6 rows: 6 clips to make", said)
    begun = outcome.admissions.n - len(IDS)  # the first six failed on purpose
    outcome.ended(output, IDS, exits=[first, retried, again], admitted=begun)


@fault(
    "writers/late-upload",
    "the part of a killed run lands in the store",
    "after the next run has made its clips; `compact`",
)
def test_an_upload_that_lands_late_is_found_and_dropped(tmp_path: Path, outcome: Outcome) -> None:
    manifest, output = write_manifest(tmp_path / "m.parquet", rows()), f"file://{tmp_path}/out"
    storage = open_storage(output)
    run_here(manifest, output, part_clips=6)
    late = {info.path: storage.get(info.path) for info in list_parts(storage)}
    storage.delete(late)
    code, _ = attempt(run_here, manifest, output)
    storage.put_many(late)
    assert {problem.kind for problem in verify(storage).problems} == {"doubled"}

    found = CliRunner().invoke(main, ["verify", "--output", output])
    compacted = CliRunner().invoke(main, ["compact", "--output", output])
    checked = CliRunner().invoke(main, ["verify", "--output", output])

    exits = [code, found.exit_code, compacted.exit_code, checked.exit_code]
    outcome.told("doubled: clips: clip … stands 2 times", found.output)
    outcome.ended(output, IDS, exits=exits, redone_at_most=6)
