"""Rules that no schema holds: the KubeRay controller's own, and what files must agree upon.

Every function tells the problems that it finds, as text; none is good.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import version

import click
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from pipeline.config import ConfigError
from tests.deploy.files import ROOT, Deployment, Document, config_of, entrypoint, parsed_entrypoint

GPU = "nvidia.com/gpu"
BASE_IMAGE = re.compile(r"^FROM rayproject/ray:([\d.]+)-py(\d)(\d+)-cu(\d+)$", re.MULTILINE)
COMMIT_S = 20  # after a drain: the last parts, the run's record
LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")  # DNS-1035
# metadata.name; five characters come after a generateName, eleven after a RayCronJob's name.
LONGEST = {"RayJob": 47, "RayCronJob": 36}
SUBMISSIONS = ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode")
SECRET = re.compile(r"(?i)(secret|password|token|access_key)\w*\s*[:=]\s*['\"]?[\w/+]{8,}")


def problems(found: Deployment) -> list[str]:
    """All rules at once."""
    rules = (
        controller_rules, drain_rules, autoscaling_rules, entrypoint_rules, placement_rules,
        version_rules, image_rules, lock_rules, schedule_rules, launcher_rules, credential_rules,
    )  # fmt: skip
    return [problem for rule in rules for problem in rule(found)]


def controller_rules(found: Deployment) -> Iterator[str]:
    """What KubeRay's webhook and controller refuse."""
    for document in (found.rayjob, found.raycronjob):
        kind, metadata = document["kind"], document["metadata"]
        name = metadata.get("name") or metadata.get("generateName", "") + "abcde"
        if len(name) > LONGEST[kind] or not LABEL.fullmatch(name):
            yield f"{kind}: name {name!r} is no DNS-1035 label of at most {LONGEST[kind]} letters"
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
    """The head stays and computes nothing; workers are spot; nothing runs as root."""
    head = found.cluster["headGroupSpec"]
    if head["rayStartParams"].get("num-cpus") != "0":
        yield "head: num-cpus is not 0, replicas would land there"
    for name, pod in found.pods.items():
        operators = set(re.findall(r"operator: (\w+)", yaml.safe_dump(pod.get("affinity", {}))))
        if name == "head" and (not operators or not operators <= {"NotIn", "DoesNotExist"}):
            yield "head: may come to stand on a spot machine"
        if name != "head" and operators != {"In"}:
            yield f"{name}: is not kept to spot machines"
        security = pod.get("securityContext", {})
        if not security.get("runAsNonRoot") or security.get("runAsUser", 0) == 0:
            yield f"{name}: runs as root"


def version_rules(found: Deployment) -> Iterator[str]:
    """One Ray everywhere: base image, rayVersion, image tags, lock, pyproject, this environment."""
    base = BASE_IMAGE.search(found.texts["Dockerfile"])
    if base is None:
        yield "Dockerfile: FROM is not rayproject/ray:VERSION-pyXY-cuNNN"
        return
    ray, python, cuda = base[1], f"{base[2]}.{base[3]}", base[4]
    images = {name: pod["containers"][0]["image"] for name, pod in found.pods.items()}
    images["launcher"] = found.launcher["docker"]["image"]
    for name, image in images.items():
        if image != images["head"]:
            yield f"{name}: image {image} is not the head's"
        if not image.endswith(f":{found.project['project']['version']}-ray{ray}"):
            yield f"{name}: image {image} is not tagged with our version and ray{ray}"
    if found.cluster["rayVersion"] != ray:
        yield f"rayVersion {found.cluster['rayVersion']} is not the image's {ray}"
    if _locked(found).get("ray") != ray:
        yield f"the lock's ray {_locked(found).get('ray')} is not the image's {ray}"
    (bounds,) = [r.specifier for r in _required(found) if r.name == "ray"]
    if ray not in bounds or version("ray") not in bounds:
        yield f"ray {ray} is outside pyproject's {bounds}"
    if python not in SpecifierSet(found.project["project"]["requires-python"]):
        yield f"the image's Python {python} is outside requires-python"
    runtime = Version(_locked(found).get("nvidia-cuda-runtime", "0"))
    if f"{runtime.major}{runtime.minor}" != cuda:
        yield f"the locked torch is for CUDA {runtime}, the image has {cuda}"


def image_rules(found: Deployment) -> Iterator[str]:
    text = found.texts["Dockerfile"]
    if re.findall(r"^USER (\S+)", text, re.MULTILINE)[-1:] in ([], ["root"]):
        yield "Dockerfile: ends as root"
    if "--require-hashes" not in text:
        yield "Dockerfile: the lock is installed without --require-hashes"
    copied = re.findall(r"^COPY(?: --\S+)* (.+)$", text, re.MULTILINE)
    sources = {name for line in copied for name in line.split()[:-1]}
    for source in sources:
        if not (ROOT / source).exists():
            yield f"Dockerfile: copies {source}, which does not exist"
    packages = found.project["tool"]["setuptools"]["packages"]["find"]["include"]
    for package in packages:
        if package.rstrip("*") not in sources:
            yield f"Dockerfile: does not copy {package}"
    installed = re.search(r"apt-get install .*", text)
    for package in ("gcc", "libc6-dev", "procps"):
        if installed is None or package not in installed[0].split():
            yield f"Dockerfile: does not install {package}"
    if "ARG MODEL" not in text or "musicgen-batch convert" not in text:
        yield "Dockerfile: weights can't be baked in"


def lock_rules(found: Deployment) -> Iterator[str]:
    """The lock holds all that pyproject asks for, within its bounds, each with a hash."""
    locked = _locked(found)
    for requirement in _required(found):
        pinned = locked.get(requirement.name.lower())
        if pinned is None:
            yield f"lock: {requirement.name} is missing; run `make lock`"
        elif pinned not in requirement.specifier:
            yield f"lock: {requirement.name} {pinned} is outside {requirement.specifier}"
    blocks = re.split(r"^(?=[\w.-]+==)", found.texts["requirements.lock"], flags=re.MULTILINE)[1:]
    if len(blocks) < len(locked) or not all("--hash=sha256:" in block for block in blocks):
        yield "lock: a package has no hash"


def schedule_rules(found: Deployment) -> Iterator[str]:
    """The CronJob may create RayJobs and does; it and RayCronJob run what rayjob.yaml says."""
    if found.raycronjob["spec"]["jobTemplate"] != found.rayjob["spec"]:
        yield "raycronjob.yaml: jobTemplate is not the spec of rayjob.yaml"
    cron = found.schedule["CronJob"]["spec"]
    if cron.get("concurrencyPolicy") != "Forbid":
        yield "CronJob: concurrencyPolicy is not Forbid"
    pod = cron["jobTemplate"]["spec"]["template"]["spec"]
    account = pod.get("serviceAccountName")
    role, binding = found.schedule["Role"], found.schedule["RoleBinding"]
    if account != found.schedule["ServiceAccount"]["metadata"]["name"]:
        yield f"CronJob: no ServiceAccount {account}"
    if [subject["name"] for subject in binding["subjects"]] != [account]:
        yield "RoleBinding: does not name the CronJob's account"
    if binding["roleRef"]["name"] != role["metadata"]["name"]:
        yield "RoleBinding: does not name the Role"
    allowed = {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    if allowed != {("ray.io", "rayjobs", verb) for verb in ("get", "list", "create")}:
        yield f"Role: {sorted(allowed)} is not what `kubectl get` and `create rayjobs` need"
    (volume,) = pod["volumes"]
    (generated,) = found.kustomization["configMapGenerator"]
    if generated["name"] != volume["configMap"]["name"] or generated["files"] != ["rayjob.yaml"]:
        yield "kustomization.yaml: does not make the ConfigMap that the CronJob mounts"
    if not found.kustomization.get("generatorOptions", {}).get("disableNameSuffixHash"):
        yield "kustomization.yaml: gives the ConfigMap another name"
    labels = found.rayjob["metadata"]["labels"]
    script = pod["containers"][0]["args"][0]
    selector = ",".join(f"{key}={value}" for key, value in labels.items())
    if f"--selector {selector} " not in script:
        yield f"CronJob: does not look for runs with {selector}"
    if "generateName" not in found.rayjob["metadata"]:
        yield "RayJob: a fixed name can be created only once"


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


def _required(found: Deployment) -> list[Requirement]:
    return [Requirement(text) for text in found.project["project"]["dependencies"]]


def _locked(found: Deployment) -> dict[str, str]:
    return dict(
        re.findall(r"^([\w.-]+)==([^\s;]+)", found.texts["requirements.lock"], re.MULTILINE)
    )
