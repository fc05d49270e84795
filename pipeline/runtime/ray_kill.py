"""Ends a process of this job on the node where it runs."""

import logging
import os
import signal

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.ledger.attempts import Attempt, started_ticks

log = logging.getLogger(__name__)

ANSWER_S = 60.0  # a node needs seconds to start the process of a task


def end_process_of(attempt: Attempt) -> bool:
    """Kills the process that wrote an attempt record, by a task on its node: `ray.kill` asks the
    process itself, and a stopped one does not hear that. False where it is gone, or the node is."""
    strategy = NodeAffinitySchedulingStrategy(node_id=attempt.node, soft=False)
    kill = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=strategy)(_kill)
    try:
        task = kill.remote(attempt.pid, attempt.started_ticks)
        return bool(ray.get(task, timeout=ANSWER_S))
    except (RayError, ValueError) as error:
        log.warning("process %d could not be ended: %s", attempt.pid, error)
        return False


def _kill(pid: int, ticks: int) -> bool:
    if not pid or started_ticks(pid) != ticks:
        return False
    os.kill(pid, signal.SIGKILL)
    return True
