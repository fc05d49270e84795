"""The configuration of Ray's cluster launcher stands up to Ray's schema and to our rules."""

import pytest

from tests.deploy import schemas
from tests.deploy.faults import GONE, Fault, assert_told, names
from tests.deploy.files import deployment
from tests.deploy.launcher_rules import launcher_problems

TYPES = "launcher.available_node_types"
SPOT = f"{TYPES}.gpu-spot.node_config"


def test_the_launcher_takes_the_file() -> None:
    assert schemas.launcher_problems(deployment()) == []
    assert launcher_problems(deployment()) == []


LAUNCHER_FAULTS: list[Fault] = [
    ("launcher.max_worker", 8, "'max_worker' was unexpected"),
    ("launcher.max_workers", "8", "'8' is not of type 'integer'"),
    ("launcher.provider", GONE, "'provider' is a required property"),
    ("launcher.docker.imag", "x", "'imag' was unexpected"),
    (f"{TYPES}.gpu-spot.resources", GONE, "'resources' is a required property"),
    (f"{TYPES}.gpu-spot.min_worker", 0, "'min_worker' was unexpected"),
    (f"{TYPES}.gpu-spot.resources.GPU", "1", "'1' is not of type 'integer'"),
]

RULE_FAULTS: list[Fault] = [
    # The launcher.
    ("launcher.head_node_type", "heads", "no node type heads"),
    (f"{TYPES}.gpu-spot.node_config.InstanceMarketOptions", GONE, "not on the spot market"),
    (f"{TYPES}.head.node_config.InstanceMarketOptions", {"MarketType": "spot"}, "head is on the"),
    (f"{TYPES}.head.resources.CPU", 4, "replicas would land on the head"),
    (f"{TYPES}.gpu-spot.min_workers", 2, "does not grow from 0 machines with GPUs"),
    ("launcher.max_workers", 4, "max_workers is less than that of gpu-spot"),
    (f"{TYPES}.gpu-spot.node_config.IamInstanceProfile", GONE, "gpu-spot has no credentials"),
    # Hardening.
    (f"{SPOT}.MetadataOptions.HttpTokens", "optional", "gpu-spot gives its credentials without"),
    (f"{SPOT}.MetadataOptions.HttpPutResponseHopLimit", 1, "a container reaches the metadata in 2"),
    (f"{TYPES}.head.node_config.MetadataOptions", GONE, "head gives its credentials without"),
    (f"{SPOT}.BlockDeviceMappings.0.Ebs.Encrypted", False, "a disk that is not encrypted"),
    (f"{SPOT}.BlockDeviceMappings.0.Ebs.DeleteOnTermination", False, "leaves a disk behind"),
]


@pytest.mark.parametrize("fault", LAUNCHER_FAULTS, ids=names(LAUNCHER_FAULTS))
def test_a_planted_fault_breaks_the_launchers_schema(fault: Fault) -> None:
    assert_told(schemas.launcher_problems, fault)


@pytest.mark.parametrize("fault", RULE_FAULTS, ids=names(RULE_FAULTS))
def test_a_planted_fault_breaks_a_rule_of_the_launcher(fault: Fault) -> None:
    assert_told(launcher_problems, fault)
