"""What Ray and its autoscalers report, as the job reads it."""

from typing import Any

import pytest
from ray.core.generated import autoscaler_pb2 as pb

from pipeline.runtime.placement import Node
from pipeline.runtime.ray_nodes import cluster_of

NODES = [
    pb.NodeState(
        node_id=bytes([number]),
        status=status,
        total_resources={"CPU": 4.0},
        available_resources={"CPU": 1.0},
    )
    for number, status in enumerate((pb.RUNNING, pb.IDLE, pb.DEAD, pb.DRAINING), start=1)
]


def request(**resources: float) -> pb.ResourceRequest:
    return pb.ResourceRequest(resources_bundle=resources)


def v1(**report: Any) -> dict[str, Any]:
    return {"autoscaler_report": report}


def test_nodes_that_take_work_and_what_waits() -> None:
    state = pb.ClusterResourceState(
        node_states=NODES,
        pending_resource_requests=[
            pb.ResourceRequestByCount(request=request(CPU=1.0, slot=1.0), count=3)
        ],
    )
    found = cluster_of(pb.GetClusterStatusReply(cluster_resource_state=state), {})
    assert found.nodes == (
        Node("01", {"CPU": 4.0}, {"CPU": 1.0}),
        Node("02", {"CPU": 4.0}, {"CPU": 1.0}),
    )
    assert found.n_queued({"slot": 1, "CPU": 1, "GPU": 0}) == 3
    assert found.n_queued({"CPU": 1}) == 0
    assert found.autoscales is None


@pytest.mark.parametrize(
    ("report", "autoscales", "coming"),
    [
        # As `ray start --head` alone reports.
        (v1(node_type_mapping={"ab": "node_ab"}, pending_nodes=[]), False, {}),
        (v1(node_type_mapping={}, pending_nodes=[], pending_launches={}), False, {}),
        (v1(node_type_mapping={"ab": "ray.head.default"}), True, {}),
        (
            v1(pending_nodes=[["10.0.0.1", "gpu", "setting-up"]], pending_launches={"gpu": 2}),
            True,
            {"gpu": 3},
        ),
        ({"autoscaler_report": None}, False, {}),
    ],
)
def test_the_first_autoscaler(
    report: dict[str, Any], autoscales: bool, coming: dict[str, int]
) -> None:
    found = cluster_of(pb.GetClusterStatusReply(), report)
    assert (found.autoscales, found.coming) == (autoscales, coming)


def test_the_second_autoscaler() -> None:
    scaling = pb.AutoscalingState(
        autoscaler_state_version=7,
        pending_instance_requests=[pb.PendingInstanceRequest(ray_node_type_name="gpu", count=2)],
        pending_instances=[pb.PendingInstance(ray_node_type_name="gpu")],
        failed_instance_requests=[
            pb.FailedInstanceRequest(ray_node_type_name="spot", reason="no capacity")
        ],
        infeasible_resource_requests=[request(GPU=8.0)],
    )
    found = cluster_of(pb.GetClusterStatusReply(autoscaling_state=scaling), {})
    assert found.autoscales
    assert found.coming == {"gpu": 3}
    assert found.failures == ("spot: no capacity",)
    assert found.cannot_grow_to_hold({"GPU": 8.0, "CPU": 0.0})
    assert not found.cannot_grow_to_hold({"GPU": 4.0})
