"""kill -9 at any moment: of several writers that die at random, the output shows nothing."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import time
from pathlib import Path

import pytest

from pipeline.ledger import list_parts, new_replica_id, new_run_id
from pipeline.ledger.lease import Lease, current_generation, holds
from pipeline.ledger.maintain import compact, finish_compaction, gc
from pipeline.ledger.verify import verify
from pipeline.storage import Storage, open_storage
from tests.pipeline.outputs import clip, commit, committed_ids, hex_id
from tests.reliability.outcomes import Outcome, fault

CLIPS = [f"clip {n}" for n in range(27)]
PART_CLIPS = 3
TTL_S = 1.0
LIVES = 2


def write_until_done(root: str, environment: dict[str, str], made: str) -> None:
    """What a run does: lease, resume, commit part after part; sometimes tidy up in between."""
    os.environ.update(environment)  # the fork server may be older than the S3 server
    storage = open_storage(root)
    with Lease.acquire(storage, ttl_s=TTL_S, wait=True) as lease:
        lease.start_heartbeat()
        finish_compaction(storage, lease)
        done = committed_ids(storage)
        todo = [name for name in CLIPS if not done.contains(hex_id(name))]
        random.shuffle(todo)
        run_id, replica = new_run_id(), new_replica_id()
        for seq, first in enumerate(range(0, len(todo), PART_CLIPS)):
            rows = [clip(name, time.time()) for name in todo[first : first + PART_CLIPS]]
            time.sleep(random.uniform(0.05, 0.2))  # it takes a while to make music
            with Path(made).open("a") as file:
                file.write(f"{len(rows)}\n")
            if not holds(storage, lease.generation, lease.token):
                return
            commit(storage, rows, seq, run_id=run_id, replica=replica)
            if len(list_parts(storage)) > 4:
                compact(storage, lease, target_rows=15)


def check_what_readers_see(storage: Storage) -> int:
    """The number of committed clips; none may be damaged or doubled, not even for a moment."""
    report = verify(storage)
    assert report.ok, [str(problem) for problem in report.problems]
    return report.n_clips


def holder(storage: Storage) -> int:
    """The process that holds the lease."""
    newest = storage.get(storage.list("lease")[-1].path)
    return int(json.loads(newest)["owner"].rpartition(" ")[2])


@pytest.mark.slow
@pytest.mark.timeout(120)
@fault("process/writers-killed", "kill -9 of the writing process, twice", "at random moments")
def test_writers_killed_at_random_lose_nothing_and_double_nothing(
    output_root: str, tmp_path: Path, outcome: Outcome
) -> None:
    storage = open_storage(output_root)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.pipeline.ledger.test_kill", "s3fs"])
    dice = random.Random(7)

    def start() -> multiprocessing.process.BaseProcess:
        arguments = (output_root, dict(os.environ), f"{tmp_path}/made")
        process = context.Process(target=write_until_done, args=arguments, daemon=True)
        process.start()
        return process

    writers = {process.pid: process for process in (start(), start())}
    n_clips = 0
    for life in range(LIVES):
        goal = len(CLIPS) * (life + 1) // (LIVES + 1)
        while n_clips < goal or holder(storage) not in writers:
            seen = check_what_readers_see(storage)
            assert seen >= n_clips, "a committed clip vanished"
            n_clips = seen
        time.sleep(dice.uniform(0, 0.3))
        victim = writers.pop(holder(storage))
        victim.kill()
        victim.join()
        next_attempt = start()
        writers[next_attempt.pid] = next_attempt
    for writer in writers.values():
        writer.join(60)
        assert writer.exitcode == 0

    assert check_what_readers_see(storage) == len(CLIPS)
    assert committed_ids(storage).contains_many([hex_id(name) for name in CLIPS]).all()
    assert current_generation(storage) > LIVES  # each death passed the lease on

    with Lease.acquire(storage) as lease:
        finish_compaction(storage, lease)
        gc(storage, lease, min_age_s=-2)
    report = verify(storage)
    assert report.ok
    assert report.n_unreferenced == report.n_leftovers == report.n_replaced_parts == 0
    begun = sum(int(n) for n in (tmp_path / "made").read_text().split())
    outcome.ended(
        storage, CLIPS, exits=["killed", "killed", "killed", 0], admitted=begun,
        redone_at_most=LIVES * PART_CLIPS,
    )  # fmt: skip
