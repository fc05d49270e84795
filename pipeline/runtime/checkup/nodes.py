"""Checks a Ray cluster: each node does the checks of its machine and reaches the others."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.config import ConfigError, JobConfig
from pipeline.runtime.checkup.finding import NOTE, OK, WRONG, Finding, first_line, from_json
from pipeline.runtime.checkup.machine import Asked, Machine
from pipeline.runtime.checkup.model import differing
from pipeline.runtime.placement import demand_of, listed, unplaced
from pipeline.runtime.ray_cluster import OwnFolderOnly, gpus_per_replica, knock, leave_ray
from pipeline.runtime.ray_nodes import ClusterReader
from pipeline.telemetry.words import counted

NODE_S = 600.0  # a large checkpoint is read once on each node
CONNECT_S = 5.0
MOST_PEERS = 16
SKEW_S = 5.0
START_ONE = (
    "start one with `ray start --head`, correct --cluster, or open the port of the head "
    "(6379, or the one that `ray start` named)"
)


def cluster(address: str, asked: Asked, config: JobConfig) -> Iterator[Finding]:
    """Joins the cluster, and looks at it and at each of its nodes.

    Args:
        address: HOST:PORT of the head, or `auto`.
        asked: What each node is to look at.
        config: What a run would ask for.
    """
    try:
        knock(address, "--cluster ")
        ray.init(
            address=address, job_config=OwnFolderOnly(), log_to_driver=False, logging_level="error"
        )
    except ConfigError as error:
        yield Finding("ray", WRONG, str(error).partition(";")[0], START_ONE)
        return
    except (RayError, RuntimeError, ConnectionError, ValueError) as error:
        yield _not_joined(address, error)
        return
    try:
        nodes = [node for node in ray.nodes() if node["Alive"]]
        yield Finding("ray", OK, f"Ray {ray.__version__}, {counted(len(nodes), 'node')}")
        yield _resources(config)
        yield from _on_each(nodes, asked)
    finally:
        leave_ray()


def _not_joined(address: str, error: Exception) -> Finding:
    said = first_line(error)
    if "ersion mismatch" in str(error):
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        said = " ".join(lines)[:300]
        return Finding(
            "ray", WRONG, said, "install the cluster's versions of Ray and Python here, or submit"
        )
    return Finding("ray", WRONG, f"{address} can't be joined: {said}", START_ONE)


def _resources(config: JobConfig) -> Finding:
    seen = ClusterReader().cluster()
    if seen is None:
        return Finding(
            "ray resources", WRONG, "the head does not tell what the nodes have",
            "look at gcs_server.out on the head",
        )  # fmt: skip
    totals = {
        name: sum(offer.get(name, 0.0) for offer in seen.totals)
        for name in ("CPU", "GPU", *config.cluster.replica_resources)
    }
    there = listed({name: amount for name, amount in totals.items() if amount})
    demand = demand_of(config, gpus_per_replica(config))
    if not (missing := unplaced(demand, seen.totals)):
        return Finding("ray resources", OK, f"{there}; a run wants {demand}")
    wanted = ", ".join(counted(n, kind) for kind, n in missing.items())
    told = f"{there}: no place for {wanted} (a run wants {demand})"
    if seen.autoscales:
        return Finding("ray resources", NOTE, f"{told}; an autoscaler is there and may add nodes")
    return Finding(
        "ray resources", WRONG, told, "lower what job.yaml asks for (section cluster), or add nodes"
    )


def _on_each(nodes: Sequence[Mapping[str, Any]], asked: Asked) -> Iterator[Finding]:
    """The findings of every node, in the order of the checks."""
    ports = {_name(node): _addresses(node) for node in nodes}
    begun = time.time()
    tasks = {_name(node): _task(node).remote(asked, _peers(ports, node)) for node in nodes}
    hashes: dict[str, str] = {}
    found: list[Finding] = []
    for name, task in tasks.items():
        try:
            facts = ray.get(task, timeout=NODE_S)
        except (GetTimeoutError, RayError, ImportError) as error:
            yield _silent(name, error)
            continue
        found += [replace(from_json(each), node=name) for each in facts["findings"]]
        if not begun - SKEW_S <= facts["clock"] <= time.time() + SKEW_S:
            apart = min(abs(facts["clock"] - begun), abs(facts["clock"] - time.time()))
            found.append(
                Finding("clock", NOTE, f"{apart:.0f} s apart from the head's", "set it", node=name)
            )
        if facts["weights_hash"]:
            hashes[name] = facts["weights_hash"]
    order = list(dict.fromkeys(each.check for each in found))
    yield from sorted(found, key=lambda each: order.index(each.check))
    yield from differing(hashes)


def _silent(name: str, error: Exception) -> Finding:
    if isinstance(error, GetTimeoutError):
        return Finding(
            "node", WRONG, f"has not answered for {NODE_S:g} s", "look at its raylet.out", node=name
        )
    cause = getattr(error, "cause", None) or error
    if isinstance(cause, ImportError) or "ModuleNotFoundError" in str(error):
        return Finding(
            "node", WRONG, "does not have this package",
            "install musicgen-batch there, or submit with --working-dir", node=name,
        )  # fmt: skip
    said = f"could not do the checks: {first_line(cause)}"
    return Finding("node", WRONG, said, "look at the logs of its raylet", node=name)


def _task(node: Mapping[str, Any]) -> Any:
    where = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    return ray.remote(_checks).options(num_cpus=0, max_retries=0, scheduling_strategy=where)


def _checks(asked: Asked, peers: dict[str, list[tuple[str, int]]]) -> dict[str, Any]:
    """Runs on a node."""
    machine = Machine(asked)
    found = [*machine.findings(starts_ray=False), *_reach(peers)]
    return {
        "findings": [each.as_json() for each in found],
        "weights_hash": machine.weights_hash,
        "clock": time.time(),
    }


def _reach(peers: dict[str, list[tuple[str, int]]]) -> Iterator[Finding]:
    """Whether this node reaches the ports of the others."""
    closed = []
    for name, addresses in peers.items():
        for host, port in addresses:
            try:
                socket.create_connection((host, port), timeout=CONNECT_S).close()
            except OSError as error:
                closed.append(f"{name} port {port} ({error})")
    if closed:
        yield Finding(
            "ports", WRONG, f"does not reach {', '.join(closed)}",
            "open the ports between the nodes: see `ray start --help` for those that can be named",
        )  # fmt: skip
    elif peers:
        yield Finding("ports", OK, f"reaches {counted(len(peers), 'other node')}")


def _peers(
    ports: dict[str, list[tuple[str, int]]], node: Mapping[str, Any]
) -> dict[str, list[tuple[str, int]]]:
    others = [name for name in ports if name != _name(node)][:MOST_PEERS]
    return {name: ports[name] for name in others}


def _addresses(node: Mapping[str, Any]) -> list[tuple[str, int]]:
    host = node["NodeManagerAddress"]
    return [(host, int(node[key])) for key in ("NodeManagerPort", "ObjectManagerPort")]


def _name(node: Mapping[str, Any]) -> str:
    """Its address; where several nodes share one, also the beginning of its id."""
    return f"{node['NodeManagerAddress']}/{node['NodeID'][:6]}"
