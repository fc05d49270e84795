"""Whether the nodes of a cluster hold a job, and which setting makes them."""

from collections.abc import Mapping
from typing import Any

import pytest

from pipeline.config_file import load_config
from pipeline.runtime.placement import (
    Cluster,
    Demand,
    Node,
    Resources,
    demand_of,
    describe_offers,
    offers_to,
    remedies,
    unknown_resources,
    unplaced,
)

HEAD = {"CPU": 0.0}  # of a cluster in Kubernetes: the driver and nothing else
GPU_NODE = {"CPU": 8.0, "GPU": 4.0}


def demand(replicas: int = 1, cpus: float = 1.0, prepare: int = 1, **others: float) -> Demand:
    return Demand(replicas, {"CPU": cpus, **others}, prepare)


def cpus(*nodes: float) -> list[Resources]:
    return [{"CPU": each} for each in nodes]


@pytest.mark.parametrize(
    ("wanted", "offers", "missing"),
    [
        # One replica asks for 1 CPU, a prepare actor for 0.5 and a task for 0.25.
        (demand(), cpus(2), {}),
        (demand(), cpus(1.75), {}),
        (demand(), cpus(1), {"prepare actor": 1, "reading task": 1}),
        (demand(), cpus(1.5), {"reading task": 1}),
        (demand(), [], {"replica": 1, "prepare actor": 1, "reading task": 1}),
        (demand(2), cpus(2), {"prepare actor": 1, "reading task": 1}),
        (demand(3), cpus(4), {}),
        (demand(4), cpus(4), {"prepare actor": 1, "reading task": 1}),
        (demand(3, prepare=3), cpus(4), {"prepare actor": 1, "reading task": 1}),
        (demand(cpus=0.25), cpus(1), {}),
        (demand(8, cpus=0.1, prepare=1), cpus(1.55), {}),
        # All that a replica needs must be on one node.
        (demand(cpus=2), cpus(1, 1, 1), {"replica": 1}),
        (demand(2, cpus=2), cpus(3, 1, 2), {}),
        (demand(2, slot=1), [{"CPU": 2}, {"slot": 2}], {"replica": 2}),
        (demand(2, slot=1), [{"CPU": 3}, {"CPU": 1, "slot": 1}, {"CPU": 1, "slot": 1}], {}),
        (demand(3, slot=1), [{"CPU": 3}, {"CPU": 1, "slot": 2}, {"CPU": 1}], {"replica": 2}),
        # GPUs, on some nodes only; a replica may ask for no CPU.
        (demand(8, GPU=1), [HEAD, GPU_NODE, GPU_NODE], {}),
        (demand(9, GPU=1), [HEAD, GPU_NODE, GPU_NODE], {"replica": 1}),
        (
            demand(8, cpus=2, GPU=1),
            [HEAD, GPU_NODE, GPU_NODE],
            {"prepare actor": 1, "reading task": 1},
        ),
        (demand(8, cpus=2, GPU=1), [{"CPU": 1}, GPU_NODE, GPU_NODE], {}),
        (demand(4, cpus=0, GPU=1), [GPU_NODE], {}),
        (demand(1, GPU=2), [{"CPU": 8, "GPU": 1}] * 2, {"replica": 1}),
        (demand(GPU=1), cpus(64), {"replica": 1}),
        # A fraction of a GPU lies on one GPU: two of 0.6 need two.
        (demand(2, GPU=0.5), [{"CPU": 4, "GPU": 1}], {}),
        (demand(3, GPU=0.6), [{"CPU": 4, "GPU": 2}], {"replica": 1}),
        (demand(6, cpus=0.5, GPU=1 / 3), [{"CPU": 4, "GPU": 2}], {}),
        (demand(1, GPU=0.5), [{"CPU": 4, "GPU": 0.5}], {}),
        # Somebody else's actors leave fractions; what is free is an offer too.
        (demand(), cpus(0.3, 1.2, 0.5), {}),
        (demand(), cpus(0.3, 0.9, 0.5), {"replica": 1}),
        (demand(4096, GPU=1), [GPU_NODE] * 1024, {}),
    ],
)  # fmt: skip
def test_what_finds_no_place(
    wanted: Demand, offers: list[Resources], missing: Mapping[str, int]
) -> None:
    assert unplaced(wanted, offers) == missing


def test_floats_are_counted_as_ray_counts_them() -> None:
    """10 x 0.1 is less than 1 in floats."""
    assert unplaced(demand(10, cpus=0.1), cpus(1.0, 0.5, 0.25)) == {}
    assert unplaced(demand(3, cpus=0.1, slot=0.1), [{"CPU": 0.3, "slot": 0.1 * 3}, *cpus(1)]) == {}


@pytest.mark.parametrize(
    ("wanted", "offers", "settings"),
    [
        (demand(), cpus(1), ["--cpus-per-replica 0.25"]),
        (demand(), cpus(0.75), []),
        (demand(2), cpus(2), ["--replicas 1", "--cpus-per-replica 0.6"]),
        (
            demand(3, prepare=3),
            cpus(4),
            ["--replicas 2", "--cpus-per-replica 0.75", "--prepare-workers 1"],
        ),
        (
            demand(4, prepare=8),
            cpus(1),
            ["--replicas 1 --prepare-workers 1 --cpus-per-replica 0.25"],
        ),
        (demand(4, prepare=8), cpus(2), ["--replicas 1 --prepare-workers 1"]),
        (demand(8, GPU=1), [GPU_NODE], ["--replicas 4"]),
        (demand(GPU=1), cpus(2), ["--gpus-per-replica 0"]),
        (demand(GPU=1), cpus(1), []),
        (demand(slot=1), cpus(64), []),
        (demand(), [], []),
    ],
)  # fmt: skip
def test_settings_that_help(wanted: Demand, offers: list[Resources], settings: list[str]) -> None:
    assert remedies(wanted, offers) == settings


def test_what_helps_does_help() -> None:
    """Each is right to the next step: more would not fit."""
    wanted, offers = demand(7, cpus=1.5, prepare=4), cpus(3, 3, 4)
    assert remedies(wanted, offers) == ["--replicas 5", "--cpus-per-replica 1"]
    assert unplaced(demand(5, cpus=1.5, prepare=4), offers) == {}
    assert unplaced(demand(6, cpus=1.5, prepare=4), offers) != {}
    assert unplaced(demand(7, cpus=1.0, prepare=4), offers) == {}
    assert unplaced(demand(7, cpus=1.05, prepare=4), offers) != {}


def test_resources_that_no_node_has() -> None:
    wanted = demand(GPU=1, slot=1)
    assert unknown_resources(wanted, [{"CPU": 1, "GPU": 0}, {"CPU": 1, "slot": 1}]) == ["GPU"]


def config(**settings: Any) -> Any:
    return load_config(None, {"model": "tiny", "manifest": "-", "output": "-", **settings})


def test_the_demand_of_a_job() -> None:
    job = config(replicas=2, cpus_per_replica=0.5, prepare_workers=3, replica_resources={"slot": 1})
    assert demand_of(job, 0.0) == Demand(2, {"CPU": 0.5, "slot": 1}, 3)
    assert str(demand_of(job, 1.0)) == (
        "2 replicas with 0.5 CPU + 1 GPU + 1 slot each, 3 prepare actors with 0.5 CPU each, "
        "1 reading task with 0.25 CPU"
    )
    assert demand_of(job, 0.0).cpus == 2.75


def test_nodes_of_a_kind_are_described_together() -> None:
    many = [*[{"CPU": 4.0, "memory": 1e9 + n} for n in range(3)], {"CPU": 1.0}]
    assert describe_offers(demand(), many) == "3 nodes with 4 CPUs each, 1 node with 1 CPU"
    assert describe_offers(demand(), cpus(*range(9))).endswith(", 4 other kinds of nodes")
    assert describe_offers(demand(), []) == "no node"


def test_a_running_job_is_offered_what_it_holds() -> None:
    nodes = (Node("a", {"CPU": 4}, {"CPU": 0.5}), Node("b", {"CPU": 2}, {"CPU": 0}))
    held = {"a": ["replica", "prepare actor"], "gone": ["replica"]}
    assert offers_to(demand(), Cluster(nodes), held) == [{"CPU": 2.0}, {}]
