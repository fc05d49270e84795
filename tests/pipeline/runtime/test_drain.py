"""When a run is asked to end early."""

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from pipeline.config import ConfigError, JobConfig
from pipeline.config_file import load_config
from pipeline.ledger.attempts import ActorIdentity, AttemptLog
from pipeline.ledger.lease import Lease, read_lease
from pipeline.runtime.drain import Drain, Leaving
from pipeline.storage import Storage, open_storage
from tests.pipeline.outputs import RUN


def config(**settings: Any) -> JobConfig:
    return load_config(None, {"manifest": "-", "output": "-", "model": "tiny", **settings})


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("1.5", 1.5), ("30s", 30), ("90m", 5400), ("8h", 28_800), ("2 d", 172_800)],
)
def test_times_are_written_as_people_do(text: str, seconds: float) -> None:
    assert config(max_runtime=text).run.max_runtime_s == seconds


@pytest.mark.parametrize("text", ["eight hours", "-5", "8h30m", ""])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"max_runtime=.*as in 90m, 8h"):
        config(max_runtime=text)


def test_a_row_has_ten_minutes_and_five_per_second_of_audio() -> None:
    assert config().run.row_limit_s(30.0) == 600 + 30 * 300
    assert config(row_timeout_s=7.0).run.row_limit_s(30.0) == 7.0


class TestBudget:
    def test_the_time_counts_from_the_start_of_the_run(self) -> None:
        drain, now = Drain(config(max_runtime="1h")), time.monotonic()
        assert not drain.is_due(now + 3590)
        assert drain.is_due(now + 3610)
        assert drain.reason == "--max-runtime 1h"

    def test_gpu_hours_count_from_the_start_of_the_replicas(self) -> None:
        drain, now = Drain(config(max_gpu_hours=4)), time.monotonic()
        assert not drain.is_due(now + 1e6)
        drain.replicas_start(gpus=8)
        assert not drain.is_due(now + 1790)
        assert drain.is_due(now + 1810)
        assert drain.reason == "--max-gpu-hours 4"

    def test_without_a_budget_it_goes_on(self) -> None:
        assert not Drain(config()).is_due(time.monotonic() + 1e9)


class TestSignals:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_the_first_drains_and_the_second_ends_at_once(self, number: signal.Signals) -> None:
        before = signal.getsignal(number)
        with Drain(config()).listening() as drain:
            os.kill(os.getpid(), number)
            assert drain.is_due()
            assert drain.reason == number.name
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), number)
        assert signal.getsignal(number) is before


class TestLeaving:
    """Replicas see the request in the lease; the driver sees in their records who is through."""

    @pytest.fixture
    def storage(self, tmp_path: Any) -> Storage:
        return open_storage(str(tmp_path))

    @pytest.fixture
    def log(self, storage: Storage) -> Callable[[str], AttemptLog]:
        return lambda name: AttemptLog.begin(storage, RUN, f"of {name}", ActorIdentity(name), 8)

    def test_the_lease_carries_the_request_until_it_is_given_back(self, storage: Storage) -> None:
        def told() -> tuple[bool, bool]:
            state = read_lease(storage, 1)
            assert state is not None
            return state.held, state.draining

        with Lease.acquire(storage) as lease:
            assert told() == (True, False)
            lease.ask_to_drain()
            lease.beat()  # a heartbeat after it
            assert told() == (True, True)
            assert read_lease(storage, 2) is None
        assert told() == (False, True)

    def test_it_is_over_when_every_replica_has_said_so(
        self, storage: Storage, log: Callable[[str], AttemptLog]
    ) -> None:
        logs, now = [log("a"), log("b")], time.monotonic()
        leaving = Leaving(storage, RUN, slots_empty_at=now + 20)
        assert not leaving.is_over(now)
        for each in logs:
            each.end("drained")
        assert leaving.is_over(now + 1)

    def test_a_replica_that_says_nothing_is_not_waited_for_for_ever(
        self, storage: Storage, log: Callable[[str], AttemptLog]
    ) -> None:
        log("a")
        now = time.monotonic()
        leaving = Leaving(storage, RUN, slots_empty_at=now + 20)
        assert not leaving.is_over(now + 70)
        assert leaving.is_over(now + 90)
