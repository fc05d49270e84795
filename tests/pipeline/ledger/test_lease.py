"""The lease: one writer, takeover from the dead after one TTL, never from the living."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.ledger import write_run
from pipeline.ledger.lease import (
    Lease,
    LeaseHeldError,
    LeaseLostError,
    OutputGoneError,
    check_held,
    current_generation,
    holds,
)
from pipeline.storage import RetryPolicy, Storage, StorageError, open_storage
from tests.faults import fault_proxy
from tests.s3 import S3Server

TTL_S = 0.8


@pytest.fixture
def storage(output_root: str) -> Storage:
    return open_storage(output_root)


@pytest.fixture
def held(storage: Storage) -> Iterator[Lease]:
    """A lease with a living owner."""
    with Lease.acquire(storage, ttl_s=TTL_S, owner="run") as lease:
        lease.start_heartbeat()
        yield lease


def test_a_free_output_is_leased_at_once_and_given_back(storage: Storage) -> None:
    assert current_generation(storage) == 0
    for generation in (1, 2, 3):
        started_s = time.monotonic()
        with Lease.acquire(storage) as lease:
            assert time.monotonic() - started_s < 5
            assert lease.generation == generation
            assert holds(storage, lease.generation, lease.token)
        assert not holds(storage, lease.generation, lease.token)


def test_a_living_owner_is_left_alone(storage: Storage, held: Lease) -> None:
    messages: list[str] = []
    with pytest.raises(LeaseHeldError, match="--wait"):
        Lease.acquire(storage, ttl_s=TTL_S, on_message=messages.append)
    assert "watching" in messages[0]
    held.check()
    assert holds(storage, held.generation, held.token)


def test_wait_follows_a_living_owner(storage: Storage, held: Lease) -> None:
    messages: list[str] = []
    threading.Timer(2 * TTL_S, held.release).start()
    with Lease.acquire(storage, ttl_s=TTL_S, wait=True, on_message=messages.append) as next_one:
        assert next_one.generation == held.generation + 1
    assert any("waiting until it has finished" in message for message in messages)
    assert not any("took over" in message for message in messages)


def test_a_dead_owner_is_followed_after_one_ttl(storage: Storage) -> None:
    dead = Lease.acquire(storage, ttl_s=TTL_S)  # no heartbeat: as after kill -9
    messages: list[str] = []
    started_s = time.monotonic()
    with Lease.acquire(storage, ttl_s=TTL_S, on_message=messages.append) as next_attempt:
        assert time.monotonic() - started_s >= TTL_S
        assert next_attempt.generation == dead.generation + 1
        assert any("took over" in message for message in messages)
        assert not holds(storage, dead.generation, dead.token)
        with pytest.raises(LeaseLostError, match="took over"):
            dead.check()
        dead.release()  # leaves the heir's lease alone
        assert holds(storage, next_attempt.generation, next_attempt.token)


def test_the_owners_ttl_counts_not_the_watchers(storage: Storage) -> None:
    """A hasty watcher may not take a slow heartbeat for death."""
    with Lease.acquire(storage, ttl_s=4.0) as slow:
        slow.start_heartbeat()
        with pytest.raises(LeaseHeldError):
            Lease.acquire(storage, ttl_s=0.2)


def test_a_paused_owner_learns_that_it_was_replaced(storage: Storage) -> None:
    paused = Lease.acquire(storage, ttl_s=TTL_S)
    with Lease.acquire(storage, ttl_s=TTL_S):
        assert not paused.lost
        paused.start_heartbeat()  # wakes up again
        deadline_s = time.monotonic() + 10
        while not paused.lost and time.monotonic() < deadline_s:
            time.sleep(0.05)
        assert paused.lost


def test_of_many_heirs_one_holds_the_lease(storage: Storage) -> None:
    Lease.acquire(storage, ttl_s=TTL_S)
    won: list[Lease] = []
    refused: list[LeaseHeldError] = []

    def inherit() -> None:
        try:
            lease = Lease.acquire(storage, ttl_s=TTL_S)
            lease.start_heartbeat()
            won.append(lease)
        except LeaseHeldError as error:
            refused.append(error)

    threads = [threading.Thread(target=inherit) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # One, unless the machine stood still for a TTL: then the next one inherited from the first.
    *former, holder = sorted(won, key=lambda lease: lease.generation)
    assert len(won) + len(refused) == 4
    assert [lease.generation for lease in (*former, holder)] == [*range(2, 2 + len(won))]
    assert current_generation(storage) == holder.generation
    assert holds(storage, holder.generation, holder.token)
    for lease in former:
        assert not holds(storage, lease.generation, lease.token)
    for lease in won:
        lease.release()


def test_a_lease_that_cannot_be_given_back_delays_only(storage: Storage) -> None:
    lease = Lease.acquire(storage, ttl_s=TTL_S)
    lease.storage = open_storage("s3://b", {"endpoint_url": "http://127.0.0.1:9", "anon": True})
    lease.storage.retry = RetryPolicy(attempts=1, connect_timeout_s=1)
    lease.release()
    with Lease.acquire(storage, ttl_s=TTL_S) as next_attempt:
        assert next_attempt.generation == 2


def test_a_store_without_exclusive_create_is_refused(tmp_path: Path) -> None:
    """Some S3 look-alikes ignore If-None-Match: every writer would think that it has won."""

    class Careless(Storage):
        def create_once(self, path: str, data: bytes, token: str) -> bool:
            self.put(path, data)
            return True

    careless = Careless(str(tmp_path), {}, RetryPolicy())
    with pytest.raises(StorageError, match="If-None-Match"):
        Lease.acquire(careless)


@pytest.mark.s3
def test_a_heartbeat_bears_a_store_that_is_away_for_a_moment(s3: S3Server) -> None:
    with fault_proxy(s3.endpoint) as proxy:
        options = {"endpoint_url": proxy.endpoint}
        hasty = RetryPolicy(attempts=1)
        storage = open_storage(s3.bucket(), options, retry=hasty)
        with Lease.acquire(storage, ttl_s=TTL_S) as lease:
            proxy.inject("slow_down", "PUT", times=3)
            lease.start_heartbeat()
            time.sleep(2 * TTL_S)
            lease.check()
            assert holds(storage, lease.generation, lease.token)
            with pytest.raises(LeaseHeldError):
                Lease.acquire(storage, ttl_s=TTL_S)


def test_an_output_that_is_deleted_is_said_to_be_deleted(tmp_path: Path) -> None:
    """Not taken over; and nothing of it is made anew."""
    root = tmp_path / "out"
    local = open_storage(str(root))
    with Lease.acquire(local, ttl_s=TTL_S) as lease:
        check_held(local, lease.generation, lease.token)
        lease.start_heartbeat()
        while root.exists():  # a heartbeat may write while the folder is being deleted
            shutil.rmtree(root, ignore_errors=True)
        with pytest.raises(OutputGoneError, match="was deleted, or moved away, while this run"):
            check_held(local, lease.generation, lease.token)
        deadline_s = time.monotonic() + 10
        while not lease.lost and time.monotonic() < deadline_s:
            time.sleep(0.05)
        with pytest.raises(OutputGoneError, match="run the same command again"):
            lease.check()
        lease.ask_to_drain()
    assert not root.exists()


def test_a_replica_says_why_it_may_not_write(storage: Storage) -> None:
    lease = Lease.acquire(storage, ttl_s=TTL_S)
    lease.release()
    with pytest.raises(LeaseLostError, match="has ended and given the lease of"):
        check_held(storage, lease.generation, lease.token)
    with (
        Lease.acquire(storage, ttl_s=TTL_S),
        pytest.raises(LeaseLostError, match="was taken over by another run"),
    ):
        check_held(storage, lease.generation, lease.token)


@pytest.mark.parametrize("name", ["notes.json", "9.json", "\u00b2.json", "00000009 (1).json"])
def test_files_of_others_beside_the_leases_are_nobodys_lease(storage: Storage, name: str) -> None:
    storage.put(f"lease/{name}", b"{}")
    with Lease.acquire(storage, ttl_s=TTL_S) as lease:
        assert lease.generation == current_generation(storage) == 1


def test_generations_grow_although_the_lease_files_are_gone(storage: Storage) -> None:
    """Rows are ordered by them."""
    run_id = "20260101T000000-abcdef"
    write_run(storage, run_id, {"run_id": run_id, "generation": 41})
    with Lease.acquire(storage, ttl_s=TTL_S) as lease:
        assert lease.generation == 42
