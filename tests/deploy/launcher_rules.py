"""What the configuration of Ray's cluster launcher for AWS must hold beside its schema."""

from __future__ import annotations

from collections.abc import Iterator

from tests.deploy.files import Deployment


def launcher_problems(found: Deployment) -> list[str]:
    """All rules at once."""
    return [*launcher_rules(found), *hardening_rules(found)]


def launcher_rules(found: Deployment) -> Iterator[str]:
    types = found.launcher["available_node_types"]
    if found.launcher.get("head_node_type") not in types:
        yield f"launcher: no node type {found.launcher.get('head_node_type')}"
    for name, node in types.items():
        market = node["node_config"].get("InstanceMarketOptions", {}).get("MarketType")
        is_head = name == found.launcher.get("head_node_type")
        if is_head == (market == "spot"):
            yield f"launcher: {name} is {'' if is_head else 'not '}on the spot market"
        if is_head and node["resources"].get("CPU") != 0:
            yield "launcher: replicas would land on the head"
        if not is_head and (node.get("min_workers") or not node["resources"].get("GPU")):
            yield f"launcher: {name} does not grow from 0 machines with GPUs"
        if node.get("max_workers", 0) > found.launcher["max_workers"]:
            yield f"launcher: max_workers is less than that of {name}"
        if "IamInstanceProfile" not in node["node_config"]:
            yield f"launcher: {name} has no credentials"


def hardening_rules(found: Deployment) -> Iterator[str]:
    """Credentials of a machine by IMDSv2 alone; every disk encrypted and gone with its machine."""
    for name, node in found.launcher["available_node_types"].items():
        config = node["node_config"]
        metadata = config.get("MetadataOptions", {})
        if metadata.get("HttpTokens") != "required":
            yield f"launcher: {name} gives its credentials without IMDSv2"
        if metadata.get("HttpPutResponseHopLimit") != 2:
            yield f"launcher: {name}: a container reaches the metadata in 2 hops, nothing in more"
        disks = [disk.get("Ebs", {}) for disk in config.get("BlockDeviceMappings", [])]
        if not disks or not all(disk.get("Encrypted") for disk in disks):
            yield f"launcher: {name} has a disk that is not encrypted"
        if not all(disk.get("DeleteOnTermination") for disk in disks):
            yield f"launcher: {name} leaves a disk behind"
