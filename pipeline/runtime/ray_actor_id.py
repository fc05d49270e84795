"""Where a replica sits, as Ray knows it."""

import time

import ray
from ray._private.state import state  # nothing public tells which nodes are being drained

from pipeline.ledger.attempts import ActorIdentity


def ray_actor_identity() -> ActorIdentity:
    """The place of the actor that asks: its id survives a restart."""
    context = ray.get_runtime_context()
    return ActorIdentity(context.get_actor_id(), context.get_node_id(), seconds_left)


def seconds_left(node: str) -> float | None:
    """Seconds until a node goes away, 0 for one that is gone; None where it stays."""
    alive = {info["NodeID"] for info in ray.nodes() if info["Alive"]}
    deadline_ms = state.get_draining_nodes().get(node)
    if node not in alive:
        return 0.0
    if deadline_ms is None:
        return None
    return max(0.0, deadline_ms / 1000 - time.time()) if deadline_ms else float("inf")
