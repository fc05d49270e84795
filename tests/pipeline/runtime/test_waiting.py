"""What a job says, and when, while it or a part of it has no place."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from pipeline.config import ConfigError
from pipeline.runtime import waiting
from pipeline.runtime.placement import Cluster, Demand, Node, Resources
from pipeline.runtime.waiting import NoPlaceError, WaitWatch, check_start

ONE = Demand(1, {"CPU": 1.0}, 1)
TWO_GPUS = Demand(2, {"CPU": 1.0, "GPU": 1.0}, 1)
REPLICA, TASK = {"CPU": 1.0}, {"CPU": 0.25}
PLACED = {"n0": ["prepare actor"]}


def cluster(*nodes: float, free: tuple[float, ...] | None = None, **more: object) -> Cluster:
    """Nodes with so many CPUs each."""
    given = zip(nodes, nodes if free is None else free, strict=True)
    made = tuple(Node(f"n{i}", {"CPU": a}, {"CPU": b}) for i, (a, b) in enumerate(given))
    return replace(Cluster(made, autoscales=False), **more)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which passes only in sleep."""
    clock = [0.0]

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    monkeypatch.setattr(waiting.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(waiting.time, "sleep", sleep)
    return clock


def start(demand: Demand, *seen: Cluster | None, may_grow: bool = True) -> list[str]:
    """What is said where the cluster is seen so, one after the other; the last one stays."""
    said: list[str] = []
    check_start(demand, looks(*seen), said.append, may_grow=may_grow)
    return said


def looks(*seen: Cluster | None) -> Callable[[], Cluster | None]:
    def forever() -> Iterator[Cluster | None]:
        yield from seen
        while True:
            yield seen[-1]

    return forever().__next__


class TestTheStart:
    def test_a_cluster_that_holds_the_job(self) -> None:
        assert start(ONE, cluster(2)) == []

    def test_a_head_that_does_not_answer_is_no_reason_to_refuse(self) -> None:
        assert start(ONE, None) == []

    def test_too_small_a_cluster_is_refused_with_the_setting_that_mends_it(self) -> None:
        with pytest.raises(ConfigError) as caught:
            start(ONE, cluster(1))
        assert str(caught.value) == (
            "this cluster can't hold the job. Wanted: 1 replica with 1 CPU, 1 prepare actor with "
            "0.5 CPU, 1 reading task with 0.25 CPU. There is: 1 node with 1 CPU. What helps: "
            "--cpus-per-replica 0.25, or add nodes"
        )

    def test_too_small_a_machine(self) -> None:
        with pytest.raises(ConfigError, match=r"^this machine .*--gpus-per-replica 0, or name a l"):
            start(TWO_GPUS, cluster(8, autoscales=None), may_grow=False)

    def test_an_autoscaler_has_time_to_report(self, now: list[float]) -> None:
        unknown = cluster(1, autoscales=None)
        (said,) = start(ONE, *[unknown] * 9, cluster(1, autoscales=True))
        assert said.startswith("this job waits for nodes. Wanted: ")
        with pytest.raises(ConfigError, match="this cluster can't hold the job"):
            start(ONE, unknown)
        assert now[0] < 35

    def test_nodes_that_are_on_their_way_are_named(self) -> None:
        coming = cluster(
            0,
            autoscales=True,
            coming={"gpu-workers": 2, "old": 0},
            failures=("gpu-workers: no quota",),
        )
        (said,) = start(TWO_GPUS, coming)
        assert (
            "There is: 1 node with 0 CPU + 0 GPU. No node has CPU or GPU. The autoscaler is "
            "starting 2 nodes of type gpu-workers; a node could not be started (gpu-workers: no "
            "quota). What helps: let the autoscaler add more nodes"
        ) in said

    def test_a_cluster_that_others_use(self) -> None:
        (said,) = start(ONE, cluster(2, free=(0.5,)))
        assert said.startswith("this job waits until others give back what they hold. ")
        assert "There is: 1 node with 0.5 CPU free (in all 1 node with 2 CPUs)." in said

    def test_what_a_job_that_has_just_ended_holds_is_soon_free(self) -> None:
        assert start(ONE, cluster(2, free=(0.5,)), cluster(2)) == []


class TestTheRunningJob:
    def test_a_replica_without_a_place_is_told_within_30_s_and_now_and_then(self) -> None:
        watch = WaitWatch(ONE)
        busy = cluster(2, free=(0.0,), queued=((REPLICA, 1),))

        said = {at: watch.look(busy, PLACED, 0, float(at)) for at in range(0, 400, 5)}

        told = {at: text for at, text in said.items() if text}
        assert list(told) == [20, 200, 380]
        assert told[20].startswith("no place for 1 replica since 20 s. Wanted: ")
        assert "There is: 1 node with 0.5 CPU free (in all 1 node with 2 CPUs)." in told[20]
        assert watch.look(cluster(2), PLACED, 0, 401.0) == "everything that waited has a place now"
        assert watch.look(cluster(2), PLACED, 0, 406.0) is None

    def test_a_short_wait_is_not_told(self) -> None:
        watch = WaitWatch(ONE)
        queued = cluster(2, queued=((REPLICA, 1),))
        assert [watch.look(queued, {}, 0, at) for at in (0.0, 5.0, 15.0)] == [None] * 3
        assert watch.look(cluster(2), PLACED, 0, 16.0) is None
        assert watch.look(queued, {}, 0, 30.0) is None  # another wait

    def test_what_other_jobs_wait_for_is_not_ours(self) -> None:
        watch = WaitWatch(ONE)
        held = {"n0": ["replica", "prepare actor"]}
        busy = cluster(2, free=(0.0,), queued=((REPLICA, 3), ({"CPU": 8.0}, 1)))
        assert [watch.look(busy, held, 0, float(at)) for at in range(0, 400, 5)] == [None] * 80

    def test_tasks_that_come_and_go_do_not_wait(self) -> None:
        watch = WaitWatch(ONE)
        held = {"n0": ["replica", "prepare actor"]}

        def said(n_queued: Callable[[int], int], n_done: Callable[[int], int]) -> list[str]:
            seen = [
                (cluster(2, free=(0.0,), queued=((TASK, n_queued(i)),)), n_done(i), 5.0 * i)
                for i in range(10)
            ]
            return [text for c, n, at in seen if (text := watch.look(c, held, n, at))]

        assert said(lambda i: 5 + i % 2, lambda i: 0) == []
        assert said(lambda i: 5, lambda i: i) == []
        (stuck,) = said(lambda i: 5, lambda i: 0)
        assert "no place for 5 reading tasks since" in stuck

    def test_a_job_of_which_a_part_runs_never_gives_up(self) -> None:
        watch = WaitWatch(replace(ONE, replicas=2))
        held = {"n0": ["replica", "prepare actor"]}
        shrunk = cluster(2, free=(0.5,), queued=((REPLICA, 1),))
        said = [watch.look(shrunk, held, 0, float(at)) for at in range(0, 1000, 5)]
        assert next(text for text in said if text).startswith("no place for 1 replica since")

    def test_a_job_that_lost_its_nodes_gives_up_in_the_end(self) -> None:
        watch = WaitWatch(ONE)
        lost = cluster(0.5, queued=((REPLICA, 1),))
        assert watch.look(lost, {}, 0, 0.0) is None
        assert watch.look(lost, {}, 0, 30.0) is not None
        with pytest.raises(
            NoPlaceError, match=r"no place for 1 replica .* the same command resumes"
        ):
            watch.look(lost, {}, 0, 400.0)

    @pytest.mark.parametrize("impossible", [(), (REPLICA,)])
    def test_an_autoscaler_is_waited_for_unless_it_says_it_cannot(
        self, impossible: tuple[Resources, ...]
    ) -> None:
        watch = WaitWatch(ONE)
        small = cluster(0.5, queued=((REPLICA, 1),), autoscales=True, impossible=impossible)
        watch.look(small, {}, 0, 0.0)
        said = watch.look(small, {}, 0, 30.0)
        assert said is not None
        assert ("it can add no node for a replica" in said) == bool(impossible)
        if not impossible:
            assert watch.look(small, {}, 0, 4000.0) is not None
            return
        with pytest.raises(ConfigError, match="no place for 1 replica since"):
            watch.look(small, {}, 0, 400.0)
