"""What a job asks of a cluster, and whether the nodes of the cluster can hold it.

Everything here is computed from values; `ray_nodes` reads them from Ray. Ray counts resources
logically: an actor or a task needs all of its resources on one node, and a fraction of a GPU on one
GPU.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline.config import JobConfig, flag_of
from pipeline.telemetry.words import counted

PREPARE_CPUS = 0.5  # of an actor of the prepare pool
TASK_CPUS = 0.25  # of a task that reads rows or cuts blocks; one at a time is enough to go on
SHARES = 10_000  # Ray's own resolution of resources
CPU_STEP = 0.05  # of what is suggested for cpus_per_replica
PROCESSORS = ("CPU", "GPU")
MOST_KINDS = 5  # of nodes that a message lists

Resources = Mapping[str, float]  # CPU, GPU and custom resources by name


@dataclass(frozen=True)
class Ask:
    """Actors or tasks of one kind.

    Attributes:
        kind: What one of them is called.
        count: How many the job wants at once.
        needs: What each needs on one node.
    """

    kind: str
    count: int
    needs: Resources


@dataclass(frozen=True)
class Demand:
    """What a job needs at once.

    Attributes:
        replicas: Number of replicas.
        replica: What each needs.
        prepare_workers: Number of prepare actors.
    """

    replicas: int
    replica: Resources
    prepare_workers: int

    @property
    def asks(self) -> tuple[Ask, ...]:
        """The kinds of actors and tasks."""
        return (
            Ask("replica", self.replicas, self.replica),
            Ask("prepare actor", self.prepare_workers, {"CPU": PREPARE_CPUS}),
            Ask("reading task", 1, {"CPU": TASK_CPUS}),
        )

    @property
    def cpus(self) -> float:
        """CPUs of all together."""
        return sum(ask.count * ask.needs.get("CPU", 0.0) for ask in self.asks)

    def __str__(self) -> str:
        return ", ".join(
            f"{counted(ask.count, ask.kind)} with {listed(ask.needs)}"
            + (" each" if ask.count > 1 else "")
            for ask in self.asks
        )


def demand_of(config: JobConfig, gpus_per_replica: float) -> Demand:
    """What the job asks for.

    Args:
        config: The job.
        gpus_per_replica: The setting, or its default on this cluster.
    """
    cluster = config.cluster
    needs = {"CPU": cluster.cpus_per_replica, "GPU": gpus_per_replica, **cluster.replica_resources}
    return Demand(
        cluster.replicas,
        {name: amount for name, amount in needs.items() if amount},
        cluster.prepare_workers,
    )


@dataclass(frozen=True)
class Node:
    """A node that takes work.

    Attributes:
        name: Its id.
        total: What it has.
        free: What nobody holds.
    """

    name: str
    total: Resources
    free: Resources


@dataclass(frozen=True)
class Cluster:
    """A cluster at one moment.

    Attributes:
        nodes: The nodes that take work.
        autoscales: Whether an autoscaler adds nodes; None where none has reported yet, or ever.
        coming: Nodes that the autoscaler is starting, by type.
        failures: Why nodes could not be started, in the autoscaler's words.
        impossible: What the autoscaler has been asked for and no type of node can hold.
        queued: What waits for a place, of all jobs: what one needs, and how many there are.
    """

    nodes: tuple[Node, ...]
    autoscales: bool | None = None
    coming: Mapping[str, int] | None = None
    failures: tuple[str, ...] = ()
    impossible: tuple[Resources, ...] = ()
    queued: tuple[tuple[Resources, int], ...] = ()

    @property
    def totals(self) -> list[Resources]:
        """What each node has."""
        return [node.total for node in self.nodes]

    @property
    def free(self) -> list[Resources]:
        """What is free on each node."""
        return [node.free for node in self.nodes]

    def n_queued(self, needs: Resources) -> int:
        """How many with exactly these needs wait for a place."""
        return sum(n for waiting, n in self.queued if in_shares(waiting) == in_shares(needs))

    def cannot_grow_to_hold(self, needs: Resources) -> bool:
        """Whether the autoscaler has no type of node that could hold this."""
        return any(in_shares(each) == in_shares(needs) for each in self.impossible)


def unplaced(demand: Demand, offers: Iterable[Resources]) -> dict[str, int]:
    """How many of each kind find no place; empty where all fit.

    Those that need more than CPUs are placed first, and the larger before the smaller; the node
    with the fewest CPUs left is filled before the others.

    Args:
        demand: What is wanted.
        offers: What each node offers.
    """
    left = [in_shares(offer) for offer in offers]
    missing = {}
    for ask in sorted(demand.asks, key=_hardness, reverse=True):
        needs, n_left = in_shares(ask.needs), ask.count
        for offer in sorted(left, key=lambda offer: offer.get("CPU", 0)):
            n = min(n_left, _capacity(offer, needs))
            _take(offer, needs, n)
            n_left -= n
        if n_left:
            missing[ask.kind] = n_left
    return missing


def remedies(demand: Demand, offers: Sequence[Resources]) -> list[str]:
    """Settings, each of which would do, that make the demand fit; most useful first."""

    def fits(changed: Demand) -> bool:
        return not unplaced(changed, offers)

    def with_cpus(wanted: Demand, steps: int) -> Demand:
        return replace(wanted, replica={**wanted.replica, "CPU": round(steps * CPU_STEP, 2)})

    def cpu_steps(wanted: Demand) -> int:
        """Most steps of CPUs per replica below what is asked for."""
        below = int((in_shares(wanted.replica).get("CPU", 0) - 1) / (CPU_STEP * SHARES))
        return _largest(below, lambda n: fits(with_cpus(wanted, n)))

    found = []
    least = replace(demand, replicas=1, prepare_workers=1)
    if n := _largest(demand.replicas - 1, lambda n: fits(replace(demand, replicas=n))):
        found.append(f"{flag_of('replicas')} {n}")
    if n := cpu_steps(demand):
        found.append(f"{flag_of('cpus_per_replica')} {n * CPU_STEP:g}")
    if n := _largest(
        demand.prepare_workers - 1, lambda n: fits(replace(demand, prepare_workers=n))
    ):
        found.append(f"{flag_of('prepare_workers')} {n}")
    on_cpus = replace(demand, replica={k: v for k, v in demand.replica.items() if k != "GPU"})
    if on_cpus != demand and fits(on_cpus):
        found.append(f"{flag_of('gpus_per_replica')} 0")
    if not found and least != demand:
        few = f"{flag_of('replicas')} 1 {flag_of('prepare_workers')} 1"
        if fits(least):
            found.append(few)
        elif n := cpu_steps(least):
            found.append(f"{few} {flag_of('cpus_per_replica')} {n * CPU_STEP:g}")
    return found


def unknown_resources(demand: Demand, offers: Iterable[Resources]) -> list[str]:
    """What a replica needs and no node has at all."""
    known = {name for offer in offers for name, amount in offer.items() if amount}
    return [name for name in demand.replica if name not in known]


def offers_to(
    demand: Demand, cluster: Cluster, held: Mapping[str, Sequence[str]]
) -> list[Resources]:
    """What each node offers to a job that runs already: what is free, and what it holds.

    Args:
        demand: What the job wants.
        cluster: The cluster.
        held: Kinds of the job's actors that have a place, by node.
    """
    needs = {ask.kind: in_shares(ask.needs) for ask in demand.asks}
    offers: list[Resources] = []
    for node in cluster.nodes:
        offer = Counter(in_shares(node.free))
        for kind in held.get(node.name, ()):
            offer.update(needs[kind])
        offers.append({name: shares / SHARES for name, shares in offer.items()})
    return offers


def describe_offers(demand: Demand, offers: Iterable[Resources]) -> str:
    """Nodes of a kind together, with the resources that matter to the job."""
    names = {name for ask in demand.asks for name in ask.needs}
    kinds = Counter(
        tuple((name, offer.get(name, 0.0)) for name in sorted(names)) for offer in offers
    )
    said = [
        f"{counted(n, 'node')} with {listed(dict(kind))}" + (" each" if n > 1 else "")
        for kind, n in kinds.most_common()
    ]
    if len(said) > MOST_KINDS:
        said[MOST_KINDS:] = [f"{len(said) - MOST_KINDS} other kinds of nodes"]
    return ", ".join(said) or "no node"


def listed(needs: Resources) -> str:
    """Amounts with their names: 2 CPUs + 0.5 GPU."""
    return (
        " + ".join(
            f"{amount:g} {name}{'s' if amount > 1 and name in PROCESSORS else ''}"
            for name, amount in needs.items()
        )
        or "no resources"
    )


def in_shares(needs: Resources) -> dict[str, int]:
    """The same in Ray's whole numbers, without zeros: floats of one amount may differ."""
    shares = {name: round(amount * SHARES) for name, amount in needs.items()}
    return {name: n for name, n in shares.items() if n}


def _hardness(ask: Ask) -> tuple[int, float]:
    return len(set(ask.needs) - {"CPU"}), ask.needs.get("CPU", 0.0)


def _capacity(offer: Mapping[str, int], needs: Mapping[str, int]) -> int:
    """How many with these needs the offer holds."""
    return min((_times(name, offer.get(name, 0), n) for name, n in needs.items()), default=1 << 30)


def _times(name: str, offered: int, needed: int) -> int:
    if name != "GPU" or needed >= SHARES:
        return max(0, offered) // needed
    whole, part = divmod(max(0, offered), SHARES)  # a fraction must lie on one GPU
    return whole * (SHARES // needed) + part // needed


def _take(offer: dict[str, int], needs: Mapping[str, int], n: int) -> None:
    for name, needed in needs.items():
        offer[name] = offer.get(name, 0) - n * needed


def _largest(most: int, fits: Callable[[int], bool]) -> int:
    """The largest number from 1 to `most` that fits, where all below it fit too; 0 if none does."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return low
