"""What a job says while it has no place: what it wants, what there is, and which setting mends it.

Before the start `check_start` refuses what can never be placed. `WaitWatch` looks at a job that
runs: nodes go away, and other jobs hold what a node has.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pipeline.config import ConfigError
from pipeline.runtime.placement import (
    Cluster,
    Demand,
    Resources,
    describe_offers,
    offers_to,
    remedies,
    unknown_resources,
    unplaced,
)
from pipeline.telemetry.words import counted

log = logging.getLogger(__name__)

REPORT_S = 20.0  # that an autoscaler which has just been started has to report
SETTLE_S = 2.0  # until the head knows that a job which has just ended holds nothing
PATIENCE_S = 20.0  # that something waits for a place before the user reads of it
REMIND_S = 180.0  # until the user reads of it again
HOPELESS_S = 300.0  # that nothing has a place, nor can get one, before the job gives up


class NoPlaceError(RuntimeError):
    """The cluster has lost what the job needs, and nothing brings it back."""


def check_start(
    demand: Demand,
    look: Callable[[], Cluster | None],
    say: Callable[[str], None],
    *,
    may_grow: bool,
) -> None:
    """Refuses a job that the cluster can never hold; says it where the job must wait.

    Args:
        demand: What the job wants.
        look: The cluster as it is now; None where that isn't known.
        say: Told in a sentence what the job waits for.
        may_grow: Whether somebody may add nodes: False for a Ray that this process has started.

    Raises:
        ConfigError: The job doesn't fit, and no autoscaler adds nodes.
    """
    give_up_at = time.monotonic() + REPORT_S
    while (cluster := look()) is not None:
        if not unplaced(demand, cluster.totals):
            if unplaced(demand, cluster.free):
                time.sleep(SETTLE_S)
                cluster = look() or cluster
            if unplaced(demand, cluster.free):
                wanted = _wanted(demand, cluster.free, cluster)
                say(f"this job waits until others give back what they hold. {wanted}")
            return
        if may_grow and cluster.autoscales:
            say(f"this job waits for nodes. {_wanted(demand, cluster.totals, cluster)}")
            return
        if not may_grow:
            said = _wanted(demand, cluster.totals, cluster, "name a larger cluster in RAY_ADDRESS")
            raise ConfigError(f"this machine can't hold the job. {said}")
        if cluster.autoscales is False or time.monotonic() > give_up_at:
            said = _wanted(demand, cluster.totals, cluster)
            raise ConfigError(f"this cluster can't hold the job. {said}")
        time.sleep(1.0)


@dataclass
class WaitWatch:
    """Follows what of a running job has no place.

    Attributes:
        demand: What the job wants.
    """

    demand: Demand
    _since: dict[str, float] = field(default_factory=dict)  # kinds that wait
    _queued_tasks: tuple[int, int] = (0, 0)  # with the clips that were done then
    _next_said: float | None = None  # None: nothing has been said of the present wait

    def look(
        self, cluster: Cluster, held: Mapping[str, Sequence[str]], n_done: int, now: float
    ) -> str | None:
        """What the user is to read, if anything.

        Args:
            cluster: The cluster.
            held: Kinds of the job's actors that have a place, by node.
            n_done: Takes that are durable: their number changes while the job goes on.
            now: Monotonic seconds.

        Raises:
            NoPlaceError: Nothing of the job has a place, nor will it get one.
            ConfigError: The same, in the autoscaler's judgement.
        """
        waiting = self._waiting(cluster, held, n_done)
        self._since = {kind: self._since.get(kind, now) for kind in waiting}
        if not waiting:
            was_said, self._next_said = self._next_said is not None, None
            return "everything that waited has a place now" if was_said else None
        waited_s = now - min(self._since.values())
        if waited_s < PATIENCE_S or (self._next_said is not None and now < self._next_said):
            return None
        offers = offers_to(self.demand, cluster, held)
        what = " and ".join(f"{counted(n, kind)}" for kind, n in waiting.items())
        said = (
            f"no place for {what} since {waited_s:.0f} s. {_wanted(self.demand, offers, cluster)}"
        )
        if waited_s > HOPELESS_S:
            self._give_up_where_hopeless(cluster, held, said)
        self._next_said = now + REMIND_S
        return said

    def _waiting(
        self, cluster: Cluster, held: Mapping[str, Sequence[str]], n_done: int
    ) -> dict[str, int]:
        """How many of each kind wait for a place.

        The head knows needs, not jobs. Of actors at most those wait that this job lacks. Tasks
        come and go, so they are stuck only where neither their number nor that of clips changes.
        """
        placed = Counter(kind for kinds in held.values() for kind in kinds)
        replica, prepare, task = self.demand.asks
        found = {
            ask.kind: min(cluster.n_queued(ask.needs), ask.count - placed[ask.kind])
            for ask in (replica, prepare)
        }
        queued = (cluster.n_queued(task.needs), n_done)
        if queued == self._queued_tasks:
            found[task.kind] = queued[0]
        self._queued_tasks = queued
        return {kind: n for kind, n in found.items() if n > 0}

    def _give_up_where_hopeless(
        self, cluster: Cluster, held: Mapping[str, Sequence[str]], said: str
    ) -> None:
        replica = self.demand.asks[0]
        least = replace(self.demand, replicas=1, prepare_workers=1)
        runs = any(replica.kind in kinds for kinds in held.values())
        if runs or not unplaced(least, cluster.totals):
            return
        if cluster.autoscales is False:
            raise NoPlaceError(f"{said}; the same command resumes")
        if any(cluster.cannot_grow_to_hold(ask.needs) for ask in self.demand.asks):
            raise ConfigError(said)


def _wanted(
    demand: Demand, offers: Sequence[Resources], cluster: Cluster, more: str = "add nodes"
) -> str:
    """The sentences after the first: wanted, there, what the autoscaler does, what mends it."""
    there, in_all = describe_offers(demand, offers), describe_offers(demand, cluster.totals)
    if there != in_all:
        there = f"{there} free (in all {in_all})"
    said = [f"Wanted: {demand}. There is: {there}."]
    if unknown := unknown_resources(demand, cluster.totals):
        said.append(f"No node has {' or '.join(unknown)}.")
    if cluster.autoscales:
        said.append(_autoscaler(demand, cluster))
        more = "let the autoscaler add more nodes"
    said.append(f"What helps: {', or '.join([*remedies(demand, offers), more])}")
    return " ".join(said)


def _autoscaler(demand: Demand, cluster: Cluster) -> str:
    """What the autoscaler does about it."""
    said = "The autoscaler is starting no node yet"
    if coming := {kind: n for kind, n in (cluster.coming or {}).items() if n}:
        said = "The autoscaler is starting " + ", ".join(
            f"{counted(n, 'node')} of type {kind}" for kind, n in sorted(coming.items())
        )
    hopeless = [ask.kind for ask in demand.asks if cluster.cannot_grow_to_hold(ask.needs)]
    if hopeless:
        said += f"; it can add no node for a {' or a '.join(hopeless)}"
    if cluster.failures:
        said += f"; a node could not be started ({cluster.failures[-1]})"
    return f"{said}."
