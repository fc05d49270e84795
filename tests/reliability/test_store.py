"""A whole run on an object store that misbehaves while the run writes to it."""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from pipeline.storage import RetryPolicy
from tests.faults import Fault as StoreFault
from tests.faults import FaultProxy, fault_proxy
from tests.integration.jobs import run_here, write_manifest
from tests.reliability.attempts import attempt
from tests.reliability.outcomes import Outcome, fault
from tests.s3 import S3Server

pytestmark = [pytest.mark.s3, pytest.mark.slow]
LONG = pytest.mark.long

IDS = [f"r{i}" for i in range(6)]
SETTINGS = {"part_clips": 2, "slots": 2, "lease_ttl_s": 2.0}
WRITES = "at each kind of write, twice"
READS = "at each kind of read, twice"
AGAIN = "after the first part; mended, the same command again"
NOT_RECOVERED = "(the store did not recover: check the endpoint and the network, then run again)"
AT_RISK = 4  # an uncommitted part and the clips in the slots


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[FaultProxy]:
    with fault_proxy(s3.endpoint) as proxy:
        yield proxy


@dataclass(frozen=True)
class Job:
    """A job that writes to the store through the proxy."""

    manifest: Path
    output: str

    def run(self, proxy: FaultProxy) -> tuple[int, str]:
        options = {"storage_options": {"endpoint_url": proxy.endpoint}}
        return attempt(run_here, self.manifest, self.output, **SETTINGS, **options)


@pytest.fixture
def job(s3: S3Server, tmp_path: Path) -> Job:
    rows = [{"id": id, "prompt": f"song {id}", "duration_s": 0.1} for id in IDS]
    return Job(write_manifest(tmp_path / "m.parquet", rows), s3.bucket() + "/music")


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five tries within a second and a half, and no answer is waited for longer than a second."""
    policy = partial(RetryPolicy, attempts=5, first_delay_s=0.1, read_timeout_s=1.0)
    monkeypatch.setattr("pipeline.storage.store.RetryPolicy", policy)


@contextmanager
def all_goes_wrong(proxy: FaultProxy, how: StoreFault, for_s: float = math.inf) -> Iterator[None]:
    """From the first part of clips on, for so many seconds or until the end of the block."""
    over = threading.Event()

    def harm() -> None:
        while not proxy.count("PUT", "clips/part-") and not over.wait(0.01):
            pass
        for method in ("GET", "PUT", "HEAD", "DELETE"):
            proxy.inject(how, method, times=sys.maxsize)
        over.wait(None if math.isinf(for_s) else for_s)
        proxy.rules.clear()

    thread = threading.Thread(target=harm)
    thread.start()
    yield
    if math.isinf(for_s):
        over.set()
    thread.join()


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(
    ("how", "method"),
    [
        pytest.param(
            "slow_down", "PUT", marks=fault("store/busy", "the store refuses (503)", WRITES)
        ),
        pytest.param(
            "reset", "PUT", marks=[LONG, fault("store/reset", "connections are reset", WRITES)]
        ),
        pytest.param(
            "stall", "PUT", marks=[LONG, fault("store/stall", "the store falls silent", WRITES)]
        ),
        pytest.param(
            "drop_response", "PUT",
            marks=fault("store/lost-reply", "the store writes, but its reply is lost", WRITES),
        ),
        pytest.param(
            "truncate", "GET", marks=fault("store/truncated", "replies are cut short", READS)
        ),
    ],
)  # fmt: skip
def test_what_passes_is_borne(
    how: StoreFault, method: str, proxy: FaultProxy, job: Job, outcome: Outcome
) -> None:
    for folder in ("lease/", "audio/", "clips/", "runs/", "attempts/"):
        proxy.inject(how, method, folder, times=2)
    code, said = job.run(proxy)

    outcome.told("WARNING …cannot …; trying again in … s", said)
    outcome.ended(job.output, IDS, exits=[code])


@LONG
@fault("store/away-briefly", "the store is away for 4 seconds", "after the first part")
def test_a_store_that_is_away_briefly(proxy: FaultProxy, job: Job, outcome: Outcome) -> None:
    with all_goes_wrong(proxy, "reset", for_s=4):
        code, said = job.run(proxy)

    outcome.told("WARNING …cannot …; trying again in … s", said)
    outcome.ended(job.output, IDS, exits=[code])


@pytest.mark.long  # as long as it says
@fault("store/away", "the store is away for a minute", AGAIN)
def test_a_store_that_is_away_for_a_minute(proxy: FaultProxy, job: Job, outcome: Outcome) -> None:
    with all_goes_wrong(proxy, "reset", for_s=60):
        code, said = job.run(proxy)
    again, _ = job.run(proxy)

    outcome.told(f"error: cannot …{NOT_RECOVERED}", said)
    outcome.ended(job.output, IDS, exits=[code, again], redone_at_most=AT_RISK)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(
    ("how", "says"),
    [
        pytest.param(
            "slow_down", NOT_RECOVERED,
            marks=[LONG, fault("store/stays-busy", "the store refuses (503) for good", AGAIN)],
        ),
        pytest.param(
            "expire",
            "(the credentials have expired: renew them, then run the same command again)",
            marks=[LONG, fault("store/expired", "the credentials expire", AGAIN)],
        ),
        pytest.param(
            "deny", "(access was denied: check the credentials and the permissions on this path)",
            marks=fault("store/denied", "the right to write is taken away", AGAIN),
        ),
    ],
)  # fmt: skip
def test_what_lasts_ends_the_run_and_the_same_command_goes_on(
    how: StoreFault, says: str, proxy: FaultProxy, job: Job, outcome: Outcome
) -> None:
    with all_goes_wrong(proxy, how):
        code, said = job.run(proxy)
    again, _ = job.run(proxy)

    outcome.told(f"error: cannot …{says}", said)
    outcome.ended(job.output, IDS, exits=[code, again], redone_at_most=AT_RISK)
