"""The actor around a replica, in the test's own process: what it writes once its run has ended."""

import time
from pathlib import Path

import pytest

from pipeline.ledger.attempts import forget_attempts
from pipeline.ledger.lease import LeaseLostError
from pipeline.replica.actor import Replica, begin_attempts
from tests.integration.jobs import wait_until
from tests.pipeline.replica.workers import ROWS, a_job

RUN = "20260101T000000-abcdef"


def test_a_process_that_starts_when_its_run_has_ended_writes_no_record(tmp_path: Path) -> None:
    told, _, storage, lease = a_job(tmp_path, ROWS)
    lease.release()

    with pytest.raises(LeaseLostError, match="has ended"):
        begin_attempts(told, told.find_identity())

    assert storage.list("attempts") == []


@pytest.mark.slow
def test_an_actor_that_outlives_its_run_beats_no_more(tmp_path: Path) -> None:
    told, _, storage, lease = a_job(tmp_path, ROWS, hang_timeout_s=1.0)
    replica = Replica(told)
    assert replica.worker is not None
    try:
        first = replica.attempts.now.beats
        wait_until(lambda: replica.attempts.now.beats > first)
        lease.release()
        time.sleep(2)  # a look that was under way may still beat
        forget_attempts(storage, RUN)
        time.sleep(2.5)
        assert storage.list("attempts") == []
    finally:
        replica.worker.close()
