"""The tasks of a scan as Ray tasks, on all nodes of a cluster that is already there."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from pipeline.ledger.id_set import Ids
from pipeline.planning.pool import TICK_S, Action, PlanningError

TASKS_PER_CPU = 2  # that are sent at once
RETRIES = 3  # of a task whose worker or node dies

_actions: dict[str, Action] = {}  # of this worker, by their object: what they hold is made once


class RayPool:
    """See `pipeline.planning.pool.Pool`. Ray must run."""

    def __init__(self) -> None:
        self._running: dict[Any, int] = {}  # tasks that have been sent, with their places

    def share(self, ids: Ids) -> Callable[[], Ids]:
        """See `Pool.share`: one copy per node."""
        return partial(ray.get, ray.put(ids))

    def run(self, action: Action, tasks: Sequence[Any]) -> Iterator[tuple[int, Any] | None]:
        """See `Pool.run`."""
        held = [ray.put(action)]  # in a list, so that Ray does not unpack it for each task
        act = ray.remote(num_cpus=1, max_retries=RETRIES)(_act)
        most = TASKS_PER_CPU * max(1, int(ray.cluster_resources().get("CPU", 1)))
        n_sent = 0
        try:
            while n_sent < len(tasks) or self._running:
                while n_sent < len(tasks) and len(self._running) < most:
                    self._running[act.remote(held, tasks[n_sent])] = n_sent
                    n_sent += 1
                done, _ = ray.wait([*self._running], timeout=TICK_S)
                if not done:
                    yield None
                for answer in done:
                    index = self._running.pop(answer)
                    yield index, _result(answer)
        finally:
            self.close()

    def close(self) -> None:
        """See `Pool.close`."""
        for answer in self._running:
            ray.cancel(answer, force=True)
        self._running.clear()


def _act(held: list[Any], task: Any) -> Any:
    """Ray task: runs the action that an object holds."""
    name = held[0].hex()
    if name not in _actions:
        _actions.clear()
        _actions[name] = ray.get(held[0])
    return _actions[name](task, lambda: False)


def _result(answer: Any) -> Any:
    try:
        return ray.get(answer)
    except RayTaskError as error:
        raise error.cause if error.cause is not None else error from None
    except RayError as error:
        raise PlanningError(
            f"a Ray task that scans the manifest was lost {RETRIES + 1} times "
            f"({type(error).__name__}); look for what ends Ray's workers, such as a lack of "
            "memory; no clip was begun, the same command starts again"
        ) from error
