"""Rules of the RayJob that no schema holds: the controller's own, and what its parts agree upon.

Every function tells the problems that it finds, as text; none is good.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import click
import yaml

from pipeline.config import ConfigError
from tests.deploy.files import Deployment, Document, config_of, entrypoint, parsed_entrypoint

GPU = "nvidia.com/gpu"
COMMIT_S = 20  # after a drain: the last parts, the run's record
LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")  # DNS-1035
# metadata.name of a RayJob.
LONGEST = 47
SUBMISSIONS = ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode")
SECRET = re.compile(r"(?i)(?<!Http)(secret|password|token|access_key)\w*\s*[:=]\s*['\"]?[\w/+]{8,}")


def rayjob_problems(found: Deployment) -> list[str]:
    """All rules at once."""
    rules = (
        controller_rules, drain_rules, autoscaling_rules, entrypoint_rules, placement_rules,
        credential_rules,
    )  # fmt: skip
    return [problem for rule in rules for problem in rule(found)]


def controller_rules(found: Deployment) -> Iterator[str]:
    """What KubeRay's webhook and controller refuse."""
    name = found.rayjob["metadata"].get("name", "")
    if len(name) > LONGEST or not LABEL.fullmatch(name):
        yield f"RayJob: name {name!r} is no DNS-1035 label of at most {LONGEST} letters"
    spec, cluster = found.rayjob["spec"], found.cluster
    shutdown = spec.get("shutdownAfterJobFinishes", False)
    if spec.get("ttlSecondsAfterFinished", 0) > 0 and not shutdown:
        yield "ttlSecondsAfterFinished needs shutdownAfterJobFinishes"
    if spec.get("suspend") and not shutdown:
        yield "suspend needs shutdownAfterJobFinishes"
    if shutdown and spec.get("deletionStrategy", {}).get("deletionRules"):
        yield "deletionRules and shutdownAfterJobFinishes exclude each other"
    if "clusterSelector" in spec:
        yield "a cluster of its own and clusterSelector exclude each other"
    for name in ("activeDeadlineSeconds", "preRunningDeadlineSeconds"):
        if spec.get(name, 1) <= 0:
            yield f"{name} must be positive"
    if spec.get("backoffLimit", 0) < 0:
        yield "backoffLimit must not be negative"
    if spec.get("submissionMode", SUBMISSIONS[0]) not in SUBMISSIONS:
        yield f"submissionMode {spec['submissionMode']} is none of {', '.join(SUBMISSIONS)}"
    if spec.get("submissionMode") == "InteractiveMode" and spec.get("backoffLimit"):
        yield "backoffLimit does not go with InteractiveMode"
    if spec.get("submissionMode") == "SidecarMode" and "submitterConfig" in spec:
        yield "submitterConfig does not go with SidecarMode"
    if not isinstance(yaml.safe_load(spec.get("runtimeEnvYAML", "{}")), dict):
        yield "runtimeEnvYAML is no mapping"
    for name, group in _groups(cluster):
        start = group["rayStartParams"]
        if group.get("resources") and {"num-cpus", "num-gpus", "memory", "resources"} & set(start):
            yield f"{name}: resources stand in rayStartParams and in resources"
        if "labels" in start:
            yield f"{name}: labels belong to the group, not into rayStartParams"
        if not all(isinstance(value, str) for value in start.values()):
            yield f"{name}: rayStartParams are texts"


def drain_rules(found: Deployment) -> Iterator[str]:
    """A drain needs its time everywhere: in the pod, in Ray's job server, before the deadline."""
    spec = found.rayjob["spec"]
    config = parsed_entrypoint(found)
    if config is None:
        return
    runtime = yaml.safe_load(spec.get("runtimeEnvYAML", "{}"))
    variables = runtime.get("env_vars", {}) if isinstance(runtime, dict) else {}
    stop_s = int(variables.get("RAY_JOB_STOP_WAIT_TIME_S", 3))
    if stop_s < config.run.drain_s + COMMIT_S:
        yield f"RAY_JOB_STOP_WAIT_TIME_S={stop_s} is less than --drain-s and {COMMIT_S} s to commit"
    for name, pod in found.pods.items():
        grace_s = pod.get("terminationGracePeriodSeconds", 30)
        if grace_s < config.run.drain_s + COMMIT_S:
            yield f"{name}: {grace_s} s of grace are less than --drain-s and {COMMIT_S} s to commit"
        hook = pod["containers"][0].get("lifecycle", {}).get("preStop", {})
        target = re.search(r"COPY .*deploy/drain\.sh (\S+)", found.texts["Dockerfile"])
        if target is None or hook.get("exec", {}).get("command") != [target[1]]:
            yield f"{name}: preStop is not the drain script of the image"
    most_s = (config.run.max_runtime_s or 0) + config.run.drain_s
    if most_s > spec["activeDeadlineSeconds"]:
        yield f"activeDeadlineSeconds comes before the end of a drain ({most_s:g} s)"


def autoscaling_rules(found: Deployment) -> Iterator[str]:
    cluster = found.cluster
    if not cluster.get("enableInTreeAutoscaling"):
        yield "enableInTreeAutoscaling is off"
    if cluster.get("autoscalerOptions", {}).get("version") == "v2":
        for name, group in _groups(cluster):
            if group["template"]["spec"].get("restartPolicy") != "Never":
                yield f"{name}: autoscaler v2 needs restartPolicy Never"
            containers = group["template"]["spec"]["containers"]
            names = {item["name"] for item in containers[0].get("env", [])}
            if "RAY_enable_autoscaler_v2" in names:
                yield f"{name}: RAY_enable_autoscaler_v2 beside autoscalerOptions.version"
    for group in cluster["workerGroupSpecs"]:
        least, most = group.get("minReplicas"), group.get("maxReplicas")
        if least is None or most is None:
            yield f"{group['groupName']}: write minReplicas and maxReplicas, both"
        elif least != 0 or not least <= group.get("replicas", 0) <= most:
            yield f"{group['groupName']}: grows from 0 up to maxReplicas"


def entrypoint_rules(found: Deployment) -> Iterator[str]:
    """The command is ours, its flags parse, and the cluster can hold what it asks for."""
    words = entrypoint(found)
    if words[0] not in found.project["project"]["scripts"]:
        yield f"entrypoint: {words[0]} is no script of pyproject.toml"
        return
    try:
        config = config_of(words)
    except (click.UsageError, ConfigError) as error:
        yield f"entrypoint: {error}"
        return
    groups = found.cluster["workerGroupSpecs"]
    if config.cluster.gpus_per_replica is None:
        yield "entrypoint: --gpus-per-replica is missing, and no GPU is there at the start"
        return
    for group in groups:
        resources = group["template"]["spec"]["containers"][0]["resources"]
        asked, granted = (resources.get(kind, {}).get(GPU, "0") for kind in ("requests", "limits"))
        if asked != granted or float(asked) % config.cluster.gpus_per_replica or float(asked) == 0:
            yield (
                f"{group['groupName']}: {asked} (limit {granted}) GPUs do not hold replicas of "
                f"{config.cluster.gpus_per_replica:g}"
            )
    for name, key, need in (
        ("GPUs", GPU, config.cluster.replicas * config.cluster.gpus_per_replica),
        (
            "CPUs",
            "cpu",
            config.cluster.replicas * config.cluster.cpus_per_replica
            + config.cluster.prepare_workers / 2
            + 1,
        ),
    ):
        most = sum(group.get("maxReplicas", 0) * _limit(group, key) for group in groups)
        if need > most:
            wanted = f"{config.cluster.replicas} replicas need {need:g} {name}"
            yield f"{wanted}; the workers have {most:g}"
    mounts = found.pods["head"]["containers"][0].get("volumeMounts", [])
    folders = [mount["mountPath"] for mount in mounts]
    if not any(config.model.name.startswith(folder) for folder in folders):
        yield f"--model {config.model.name} is on no volume"


def placement_rules(found: Deployment) -> Iterator[str]:
    """The head stays and computes nothing; workers are spot; disk is asked for."""
    head = found.cluster["headGroupSpec"]
    if head["rayStartParams"].get("num-cpus") != "0":
        yield "head: num-cpus is not 0, replicas would land there"
    for name, pod in found.pods.items():
        operators = set(re.findall(r"operator: (\w+)", yaml.safe_dump(pod.get("affinity", {}))))
        if name == "head" and (not operators or not operators <= {"NotIn", "DoesNotExist"}):
            yield "head: may come to stand on a spot machine"
        if name != "head" and operators != {"In"}:
            yield f"{name}: is not kept to spot machines"
        for kind in ("requests", "limits"):
            if "ephemeral-storage" not in pod["containers"][0]["resources"].get(kind, {}):
                yield f"{name}: {kind} no ephemeral-storage, and is evicted when the disk fills"
        if pod.get("serviceAccountName") != found.base["ServiceAccount"]["metadata"]["name"]:
            yield f"{name}: is not the service account's"


def credential_rules(found: Deployment) -> Iterator[str]:
    """Credentials come from a Secret, and none is written down."""
    for name, pod in found.pods.items():
        sources = pod["containers"][0].get("envFrom", [])
        if not any("secretRef" in source for source in sources):
            yield f"{name}: no Secret gives it credentials"
    texts = {**found.texts, "rayjob": yaml.safe_dump(found.rayjob)}
    texts |= {"launcher": yaml.safe_dump(found.launcher)}
    for name, text in texts.items():
        if name != "requirements.lock" and SECRET.search(text):
            yield f"{name}: a credential is written down"


def _groups(cluster: Document) -> list[tuple[str, Document]]:
    workers = [(group["groupName"], group) for group in cluster["workerGroupSpecs"]]
    return [("head", cluster["headGroupSpec"]), *workers]


def _limit(group: Document, key: str) -> float:
    return float(group["template"]["spec"]["containers"][0]["resources"]["limits"].get(key, 0))
