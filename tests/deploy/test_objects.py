"""Objects of Kubernetes as they stand: their schemas, Pod Security `restricted` for every pod,
and who may talk to whom."""

import copy
from typing import Any

import pytest

from tests.deploy import schemas
from tests.deploy.faults import GONE, Fault, assert_told, names
from tests.deploy.files import Deployment, Document, deployment, pod_templates
from tests.deploy.pod_security import restricted_problems

CRON = "schedule.CronJob.spec"
CRON_POD = f"{CRON}.jobTemplate.spec.template.spec"
QUEUE = "queue.ClusterQueue.spec.resourceGroups.0"


def test_kubernetes_takes_every_object() -> None:
    assert schemas.core_problems(deployment()) == []


CORE_FAULTS: list[Fault] = [
    (f"{CRON}.concurencyPolicy", "Forbid", "'concurencyPolicy' was unexpected"),
    (f"{CRON}.schedule", 22, "22 is not of type 'string'"),
    (f"{CRON}.jobTemplate.spec.backoffLimit", "2", "'2' is not of type 'integer'"),
    (f"{CRON_POD}.containers.0.comand", [], "'comand' was unexpected"),
    (f"{CRON_POD}.volumes.0.emptyDir.size", "x", "'size' was unexpected"),
    ("nightly.CronJob.spec.jobTemplate.spec.podFailurePolicy.rule", [], "'rule' was unexpected"),
    ("schedule.Role.rules.0.verb", ["get"], "'verb' was unexpected"),
    ("schedule.Role.rules.0.verbs", GONE, "'verbs' is a required property"),
    ("schedule.RoleBinding.roleRef", GONE, "'roleRef' is a required property"),
    ("schedule.ServiceAccount.spec", {}, "'spec' was unexpected"),
    ("base.ServiceAccount.automountToken", False, "'automountToken' was unexpected"),
    ("base.NetworkPolicy.spec.policyType", ["Egress"], "'policyType' was unexpected"),
    ("base.NetworkPolicy.spec.egress.1.ports.0.prot", "UDP", "'prot' was unexpected"),
    ("weights.PersistentVolumeClaim.spec.accessMode", "x", "'accessMode' was unexpected"),
    ("weights.Job.spec.template.spec.containers.0.volumeMount", [], "'volumeMount' was unexp"),
    ("weights.Job.spec.backoffLimit", "3", "'3' is not of type 'integer'"),
    (f"{QUEUE}.coveredResource", ["cpu"], "'coveredResource' was unexpected"),
    (f"{QUEUE}.flavors.0.resources.0.nominalQuota", "8 CPUs", "'8 CPUs' does not match"),
    ("queue.LocalQueue.spec.clusterQueue", GONE, "'clusterQueue' is a required property"),
    ("monitor.spec.podMetricsEndpoint", [], "'podMetricsEndpoint' was unexpected"),
    ("monitor.spec.podMetricsEndpoints.0.interval", "15", "'15' does not match"),
    ("prometheus_rule.spec.groups.0.rules.0.fore", "1m", "'fore' was unexpected"),
]


@pytest.mark.parametrize("fault", CORE_FAULTS, ids=names(CORE_FAULTS))
def test_a_planted_fault_breaks_a_schema(fault: Fault) -> None:
    assert_told(schemas.core_problems, fault)


# --- pods


def all_templates(found: Deployment) -> dict[str, Document]:
    groups = (found.base, found.weights, found.schedule, found.nightly)
    documents = [document for group in groups for document in group.values()]
    return {name: each for one in documents for name, each in pod_templates(one).items()}


def test_pod_security_restricted_admits_every_pod() -> None:
    templates = all_templates(deployment())

    assert set(templates) == {
        *("head", "gpu-spot", "submitter", "Job musicgen-weights"),
        *("CronJob musicgen-nightly", "CronJob musicgen-schedule"),
    }
    assert {name: restricted_problems(each) for name, each in templates.items()} == {
        key: [] for key in templates
    }


def test_pod_security_restricted_admits_the_containers_that_kuberay_adds() -> None:
    """The autoscaler takes its own context, the container that waits for the head the worker's."""
    found = deployment()
    head = found.pods["head"]
    added = {
        "name": "autoscaler",
        "securityContext": found.cluster["autoscalerOptions"]["securityContext"],
    }

    assert restricted_problems({"spec": head | {"containers": [*head["containers"], added]}}) == []
    added["securityContext"] = {}
    assert restricted_problems({"spec": head | {"containers": [*head["containers"], added]}})


POD_FAULTS: list[tuple[str, Any, str]] = [
    ("hostNetwork", True, "hostNetwork is set"),
    ("hostPID", True, "hostPID is set"),
    ("hostIPC", True, "hostIPC is set"),
    ("containers", [], "it has no container"),
    ("securityContext", {}, "runAsNonRoot is not true"),
    ("securityContext.runAsNonRoot", False, "runAsNonRoot is not true"),
    ("securityContext.runAsUser", 0, "runAsUser is 0"),
    ("securityContext.seccompProfile", {}, "seccompProfile None is none of"),
    ("securityContext.seccompProfile.type", "Unconfined", "seccompProfile is Unconfined"),
    ("securityContext.appArmorProfile", {"type": "Unconfined"}, "appArmorProfile is Unconfined"),
    ("securityContext.seLinuxOptions", {"role": "x"}, "seLinuxOptions name a user, a role"),
    ("securityContext.sysctls", [{"name": "kernel.msgmax", "value": "1"}], "kernel.msgmax is not"),
    ("securityContext.windowsOptions", {"hostProcess": True}, "hostProcess is set"),
    ("volumes.0", {"name": "x", "hostPath": {"path": "/"}}, "volume x is a hostPath"),
    ("containers.0.securityContext", {}, "capabilities do not drop ALL"),
    ("containers.0.securityContext.allowPrivilegeEscalation", GONE, "allowPrivilegeEscalation is"),
    ("containers.0.securityContext.privileged", True, "privileged is set"),
    ("containers.0.securityContext.procMount", "Unmasked", "procMount is not Default"),
    ("containers.0.securityContext.runAsUser", 0, "ray-head: runAsUser is 0"),
    ("containers.0.securityContext.capabilities.add", ["CHOWN"], "capabilities add CHOWN"),
    ("containers.0.securityContext.capabilities.add", ["SYS_ADMIN"], "beyond baseline too"),
    ("containers.0.ports.0.hostPort", 6379, "hostPort 6379 is set"),
    ("containers.0.lifecycle.preStop", {"httpGet": {"host": "x"}}, "a hook names a host"),
    ("initContainers", [{"name": "first"}], "first: capabilities do not drop ALL"),
]


@pytest.mark.parametrize("fault", POD_FAULTS, ids=[f"{w}={v}"[:40] for w, v, _ in POD_FAULTS])
def test_a_planted_fault_is_refused_by_restricted(fault: tuple[str, Any, str]) -> None:
    where, value, message = fault
    spec = copy.deepcopy(deployment().pods["head"])
    *inner, last = where.split(".")
    at: Any = spec
    for key in inner:
        at = at[int(key)] if isinstance(at, list) else at[key]
    if value is GONE:
        del at[last]
    else:
        at[int(last) if isinstance(at, list) else last] = value

    assert any(message in text for text in restricted_problems({"spec": spec}))


# --- who may talk to whom, who sees what


def reach_problems(found: Deployment) -> list[str]:
    """Labels that select pods select ours, and the ports that are open are those that are used."""
    problems = []
    policy = found.base["NetworkPolicy"]["spec"]
    templates = {n: t for n, t in all_templates(found).items() if n not in OUTSIDE}
    for name, selector in (
        ("NetworkPolicy", policy["podSelector"]["matchLabels"]),
        ("PodMonitor", found.monitor["spec"]["selector"]["matchLabels"]),
    ):
        for pod, template in templates.items():
            labels = template.get("metadata", {}).get("labels", {})
            if not selector.items() <= labels.items():
                problems.append(f"{name} does not select {pod}")
    if set(policy["policyTypes"]) != {"Ingress", "Egress"}:
        problems.append("NetworkPolicy: pods may be asked or ask whom they like")
    ports = {port["name"]: port["containerPort"] for port in _ports(found, "head")}
    opened = {p["port"] for rule in policy["ingress"] for p in rule.get("ports", [])}
    if opened != {ports.get("dashboard"), ports.get("metrics")}:
        problems.append(f"NetworkPolicy opens {sorted(opened)}, not the dashboard and the metrics")
    if any("from" not in rule for rule in policy["ingress"]):
        problems.append("NetworkPolicy: an ingress rule lets everybody in")
    for rule in policy["egress"]:
        for peer in rule.get("to", [{}]):
            block = peer.get("ipBlock")
            if block and "169.254.0.0/16" not in block.get("except", []):
                problems.append("NetworkPolicy: pods reach the machine's credentials")
            if block and not rule.get("ports"):
                problems.append("NetworkPolicy: pods reach any port")
    scraped = {endpoint["port"] for endpoint in found.monitor["spec"]["podMetricsEndpoints"]}
    for name in found.pods:
        if not scraped <= {port["name"] for port in _ports(found, name)}:
            problems.append(f"PodMonitor: {name} has no port named {', '.join(scraped)}")
    claims = {found.weights["PersistentVolumeClaim"]["metadata"]["name"]}
    users = [*found.pods.values(), found.weights["Job"]["spec"]["template"]["spec"]]
    for pod in users:
        named = {v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"]}
        if named != claims:
            problems.append(f"volumes claim {', '.join(named)}, not {', '.join(claims)}")
    return problems


OUTSIDE = ("Job musicgen-weights", "CronJob musicgen-schedule")  # they ask the hub, the API server


def _ports(found: Deployment, pod: str) -> list[Document]:
    return list(found.pods[pod]["containers"][0].get("ports", []))


REACH_FAULTS: list[Fault] = [
    ("base.NetworkPolicy.spec.podSelector.matchLabels", {"app": "x"}, "does not select head"),
    ("base.NetworkPolicy.spec.policyTypes", ["Ingress"], "ask whom they like"),
    ("base.NetworkPolicy.spec.ingress.1.ports.0.port", 6379, "NetworkPolicy opens [6379, 8080]"),
    ("base.NetworkPolicy.spec.ingress.1.from", GONE, "lets everybody in"),
    ("base.NetworkPolicy.spec.egress.2.to.0.ipBlock.except", [], "reach the machine's cred"),
    ("base.NetworkPolicy.spec.egress.2.ports", [], "pods reach any port"),
    ("monitor.spec.selector.matchLabels", {"app": "x"}, "PodMonitor does not select head"),
    ("monitor.spec.podMetricsEndpoints.0.port", "http", "head has no port named http"),
    (
        "base.RayJob.spec.rayClusterSpec.headGroupSpec.template.metadata.labels", {},
        "NetworkPolicy does not select head",
    ),
    ("weights.PersistentVolumeClaim.metadata.name", "x", "volumes claim musicgen-models, not x"),
]  # fmt: skip


def test_labels_and_ports_meet() -> None:
    assert reach_problems(deployment()) == []


@pytest.mark.parametrize("fault", REACH_FAULTS, ids=names(REACH_FAULTS))
def test_a_planted_fault_leaves_a_pod_out(fault: Fault) -> None:
    assert_told(reach_problems, fault)
