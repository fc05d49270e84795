"""Reads what `placement` and `waiting` must know from the Ray that this process has joined."""

import json
import logging
from collections import Counter
from collections.abc import Mapping
from typing import Any

import ray
from ray._private.state import state  # the public state API needs a dashboard
from ray._raylet import GcsClient  # type: ignore[attr-defined]  # compiled
from ray.core.generated import autoscaler_pb2 as pb
from ray.exceptions import RaySystemError, RpcError

from pipeline.runtime.placement import Cluster, Node

log = logging.getLogger(__name__)

RPC_S = 5.0
TAKE_WORK = (pb.RUNNING, pb.IDLE)  # the others are dead or being drained
V1_STATUS_KEY = b"__autoscaling_status"  # where the first autoscaler, or what stands in, reports
UNNAMED = "node_"  # begins the type of a node that no autoscaler has started


class ClusterReader:
    """Asks the head of the cluster."""

    def __init__(self) -> None:
        self._gcs = GcsClient(address=ray.get_runtime_context().gcs_address)

    def cluster(self) -> Cluster | None:
        """The cluster now; None where the head does not answer."""
        try:
            reply = pb.GetClusterStatusReply()
            reply.ParseFromString(self._gcs.get_cluster_status(timeout_s=RPC_S))
            report = self._gcs.internal_kv_get(V1_STATUS_KEY, None, timeout=RPC_S)
        except (RpcError, RaySystemError, TimeoutError) as error:
            log.debug("the cluster's state can't be read: %s", error)
            return None
        return cluster_of(reply, json.loads(report) if report else {})

    def placed(self, classes: Mapping[str, str]) -> dict[str, list[str]]:
        """Kinds of this job's actors that have a place, by node.

        Args:
            classes: The kinds by the name of their class.
        """
        job = ray.JobID.from_hex(ray.get_runtime_context().get_job_id())
        found: dict[str, list[str]] = {}
        for actor in state.actor_table(None, job, "ALIVE").values():
            for name, kind in classes.items():
                if f"({name})" in actor["ActorClassName"]:
                    found.setdefault(actor["Address"]["NodeID"], []).append(kind)
        return found


def cluster_of(reply: pb.GetClusterStatusReply, v1_status: Mapping[str, Any]) -> Cluster:
    """The cluster as the head and the autoscaler report it.

    Args:
        reply: Of the head, with what the second autoscaler (as in KubeRay) has reported to it.
        v1_status: What the first autoscaler has reported; on a cluster without one Ray reports
            the same with types of nodes that it has made up.
    """
    resources, scaling = reply.cluster_resource_state, reply.autoscaling_state
    report = v1_status.get("autoscaler_report") or {}
    types = (report.get("node_type_mapping") or {}).values()
    coming = Counter(report.get("pending_launches") or {})
    coming.update(kind for _, kind, *_ in report.get("pending_nodes") or ())
    for request in scaling.pending_instance_requests:
        coming[request.ray_node_type_name] += request.count
    coming.update(instance.ray_node_type_name for instance in scaling.pending_instances)
    autoscales: bool | None = None
    if v1_status:
        autoscales = bool(coming) or any(not str(kind).startswith(UNNAMED) for kind in types)
    if scaling.autoscaler_state_version > 0:
        autoscales = True
    return Cluster(
        nodes=tuple(
            Node(node.node_id.hex(), dict(node.total_resources), dict(node.available_resources))
            for node in resources.node_states
            if node.status in TAKE_WORK
        ),
        autoscales=autoscales,
        coming=dict(coming),
        failures=tuple(
            f"{failed.ray_node_type_name}: {failed.reason}"
            for failed in scaling.failed_instance_requests
        ),
        impossible=tuple(
            dict(request.resources_bundle) for request in scaling.infeasible_resource_requests
        ),
        queued=tuple(
            (dict(each.request.resources_bundle), each.count)
            for each in resources.pending_resource_requests
        ),
    )
