"""The files of `deploy/` stand up to their schemas, to KubeRay's rules and to each other; and each
check is seen to fail: every planted fault below is told."""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from pipeline.config import JobConfig
from tests.deploy import rules, schemas
from tests.deploy.files import (
    FOLDER,
    SLURM_CPUS,
    SLURM_GPUS,
    SLURM_NODES,
    Deployment,
    config_of,
    deployment,
    run_sbatch,
    sbatch_options,
)

Check = Callable[[Deployment], list[str]]
Fault = tuple[str, Any, str]  # where, what stands there instead, what must be told
GONE = object()
SPEC = "rayjob.spec"
CLUSTER = f"{SPEC}.rayClusterSpec"
HEAD = f"{CLUSTER}.headGroupSpec.template.spec"
WORKERS = f"{CLUSTER}.workerGroupSpecs.0"
POD = f"{WORKERS}.template.spec"
CRON = "schedule.CronJob.spec"
CRON_POD = f"{CRON}.jobTemplate.spec.template.spec"
TYPES = "launcher.available_node_types"


def test_every_file_stands() -> None:
    found = deployment()

    assert rules.problems(found) == []
    assert schemas.core_problems(found) == []
    assert schemas.launcher_problems(found) == []


def test_kuberay_takes_the_rayjobs() -> None:
    assert schemas.crd_problems(deployment()) == []


CRD_FAULTS: list[Fault] = [
    (f"{SPEC}.backofLimit", 3, "'backofLimit' was unexpected"),
    (f"{SPEC}.backoffLimit", "3", "'3' is not of type 'integer'"),
    (f"{CLUSTER}.autoscalerOptions.version", "v3", "'v3' is not one of"),
    (f"{CLUSTER}.autoscalerOptions.upscaleMode", "Default", "'upscaleMode' was unexpected"),
    (f"{CLUSTER}.authOptions.mode", "open", "'open' is not one of"),
    (f"{WORKERS}.maxReplicas", GONE, "'maxReplicas' is a required property"),
    (f"{WORKERS}.minReplicas", GONE, "'minReplicas' is a required property"),
    (f"{WORKERS}.template.spec.containers", GONE, "'containers' is a required property"),
    (f"{POD}.tolerations.0.efect", "NoSchedule", "'efect' was unexpected"),
    (f"{POD}.containers.0.resources.limit", {}, "'limit' was unexpected"),
    (f"{HEAD}.terminationGracePeriod", 120, "'terminationGracePeriod' was unexpected"),
    (f"{HEAD}.containers.0.envFrom.0.secretReff", {}, "'secretReff' was unexpected"),
    (f"{HEAD}.containers.0.lifecycle.prestop", {}, "'prestop' was unexpected"),
    ("raycronjob.spec.concurrencyPolicy", "Forbid", "'concurrencyPolicy' was unexpected"),
    ("raycronjob.spec.schedule", GONE, "'schedule' is a required property"),
    ("raycronjob.spec.jobTemplate.spec", {}, "'spec' was unexpected"),
]  # fmt: skip

CORE_FAULTS: list[Fault] = [
    (f"{CRON}.concurencyPolicy", "Forbid", "'concurencyPolicy' was unexpected"),
    (f"{CRON}.schedule", 22, "22 is not of type 'string'"),
    (f"{CRON}.jobTemplate.spec.backoffLimit", "2", "'2' is not of type 'integer'"),
    (f"{CRON_POD}.containers.0.comand", [], "'comand' was unexpected"),
    (f"{CRON_POD}.volumes.0.configMap.nam", "x", "'nam' was unexpected"),
    ("schedule.Role.rules.0.verb", ["get"], "'verb' was unexpected"),
    ("schedule.Role.rules.0.verbs", GONE, "'verbs' is a required property"),
    ("schedule.RoleBinding.roleRef", GONE, "'roleRef' is a required property"),
    ("schedule.ServiceAccount.spec", {}, "'spec' was unexpected"),
]

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
    # The controller's own.
    ("rayjob.metadata.generateName", "x" * 43, "no DNS-1035 label of at most 47"),
    ("rayjob.metadata.generateName", "Musicgen-", "no DNS-1035 label"),
    ("raycronjob.metadata.name", "x" * 37, "no DNS-1035 label of at most 36"),
    (f"{SPEC}.shutdownAfterJobFinishes", False, "ttlSecondsAfterFinished needs shutdown"),
    (f"{SPEC}.deletionStrategy", {"deletionRules": [{}]}, "exclude each other"),
    (f"{SPEC}.clusterSelector", {"ray.io/cluster": "x"}, "exclude each other"),
    (f"{SPEC}.activeDeadlineSeconds", 0, "activeDeadlineSeconds must be positive"),
    (f"{SPEC}.backoffLimit", -1, "backoffLimit must not be negative"),
    (f"{SPEC}.submissionMode", "K8sMode", "submissionMode K8sMode is none of"),
    (f"{SPEC}.submissionMode", "InteractiveMode", "does not go with InteractiveMode"),
    (f"{SPEC}.submissionMode", "SidecarMode", "does not go with SidecarMode"),
    (f"{SPEC}.runtimeEnvYAML", "- env_vars", "runtimeEnvYAML is no mapping"),
    (f"{CLUSTER}.headGroupSpec.resources", {"cpu": "6"}, "stand in rayStartParams and in resou"),
    (f"{WORKERS}.rayStartParams", {"num-gpus": 1}, "rayStartParams are texts"),
    (f"{WORKERS}.rayStartParams", {"labels": "a=b"}, "labels belong to the group"),
    # Draining.
    (f"{HEAD}.terminationGracePeriodSeconds", 30, "head: 30 s of grace are less than --drain-s"),
    (f"{POD}.terminationGracePeriodSeconds", GONE, "gpu-spot: 30 s of grace are less"),
    (f"{HEAD}.containers.0.lifecycle", GONE, "head: preStop is not the drain script"),
    (f"{SPEC}.runtimeEnvYAML", "{}", "RAY_JOB_STOP_WAIT_TIME_S=3 is less than"),
    (f"{SPEC}.activeDeadlineSeconds", 60, "comes before the end of a drain"),
    # Autoscaling.
    (f"{CLUSTER}.enableInTreeAutoscaling", False, "enableInTreeAutoscaling is off"),
    (f"{HEAD}.restartPolicy", "Always", "head: autoscaler v2 needs restartPolicy Never"),
    (f"{POD}.restartPolicy", GONE, "gpu-spot: autoscaler v2 needs restartPolicy Never"),
    (f"{HEAD}.containers.0.env", [{"name": "RAY_enable_autoscaler_v2"}], "beside autoscalerOpt"),
    (f"{WORKERS}.minReplicas", 1, "grows from 0"),
    (f"{WORKERS}.maxReplicas", GONE, "write minReplicas and maxReplicas"),
    # The command against the program and the cluster.
    (f"{SPEC}.entrypoint", "musicgen-bach run", "musicgen-bach is no script of pyproject.toml"),
    (f"{SPEC}.entrypoint+", " --slotz 3", "No such option"),
    (f"{SPEC}.entrypoint+", " --slots 0", "slots=0"),
    (f"{SPEC}.entrypoint+", " --gpus-per-replica 2", "do not hold replicas of 2"),
    (f"{SPEC}.entrypoint+", " --replicas 9", "9 replicas need 9 GPUs; the workers have 8"),
    (f"{SPEC}.entrypoint+", " --cpus-per-replica 6", "8 replicas need 51 CPUs"),
    (f"{SPEC}.entrypoint+", " --drain-s 300", "120 s of grace are less than --drain-s"),
    (f"{SPEC}.entrypoint+", " --model /weights/x", "/weights/x is on no volume"),
    (f"{POD}.containers.0.resources.limits", {"cpu": "6"}, "GPUs do not hold replicas"),
    (f"{WORKERS}.maxReplicas", 4, "8 replicas need 8 GPUs; the workers have 4"),
    # Placement.
    (f"{CLUSTER}.headGroupSpec.rayStartParams", {}, "num-cpus is not 0"),
    (f"{HEAD}.affinity", GONE, "head: may come to stand on a spot machine"),
    (f"{POD}.affinity", GONE, "gpu-spot: is not kept to spot machines"),
    (f"{HEAD}.securityContext", {"runAsUser": 0}, "head: runs as root"),
    # Versions.
    (f"{CLUSTER}.rayVersion", "2.59.0", "rayVersion 2.59.0 is not the image's 2.60.0"),
    (f"{POD}.containers.0.image", "registry.example.com/musicgen-batch:latest", "is not the head"),
    ("launcher.docker.image", "rayproject/ray:2.60.0", "is not tagged with our version"),
    ("texts.Dockerfile:ray:2.60.0-py311", "ray:2.59.0-py311", "is not the image's 2.59.0"),
    ("texts.Dockerfile:ray:2.60.0-py311", "ray:2.70.0-py311", "ray 2.70.0 is outside pyproject's"),
    ("texts.Dockerfile:ray:2.60.0-py311", "ray:latest", "FROM is not rayproject/ray:VERSION"),
    ("texts.Dockerfile:-py311", "-py310", "Python 3.10 is outside requires-python"),
    ("texts.Dockerfile:-cu130", "-cu128", "is for CUDA 13.0"),
    # The image and its lock.
    ("texts.Dockerfile:USER ray", "USER root", "Dockerfile: ends as root"),
    ("texts.Dockerfile: --require-hashes", "", "without --require-hashes"),
    ("texts.Dockerfile:musicgen musicgen", "musicgenn musicgen", "copies musicgenn, which does"),
    ("texts.Dockerfile:COPY --chown=ray:users manifests manifests", "", "does not copy manifests"),
    ("texts.Dockerfile:gcc libc6-dev", "", "does not install gcc"),
    ("texts.Dockerfile:ARG MODEL", "ARG WEIGHTS", "weights can't be baked in"),
    ("texts.requirements.lock:\nclick==", "\nclack==", "lock: click is missing"),
    ("texts.requirements.lock:\npydantic==2", "\npydantic==1", "is outside <3,>=2.9"),
    ("texts.requirements.lock:\nray==2.60.0", "\nray==2.61.0", "the lock's ray 2.61.0 is not"),
    ("project.project.dependencies.0", "ray[data]>=2.61,<2.64", "outside pyproject's"),
    ("project.project.dependencies.14", "sqlalchemy>=2", "lock: sqlalchemy is missing"),
    # The schedule.
    ("raycronjob.spec.jobTemplate.backoffLimit", 1, "jobTemplate is not the spec of rayjob"),
    (f"{CRON}.concurrencyPolicy", "Allow", "concurrencyPolicy is not Forbid"),
    (f"{CRON_POD}.serviceAccountName", "default", "no ServiceAccount default"),
    ("schedule.Role.rules.0.verbs", ["get", "list"], "is not what `kubectl get` and `create"),
    ("schedule.Role.rules.0.resources", ["*"], "is not what `kubectl get` and `create"),
    ("schedule.RoleBinding.subjects.0.name", "x", "does not name the CronJob's account"),
    ("schedule.RoleBinding.roleRef.name", "x", "does not name the Role"),
    (f"{CRON_POD}.volumes.0.configMap.name", "x", "does not make the ConfigMap"),
    ("kustomization.generatorOptions", GONE, "gives the ConfigMap another name"),
    ("rayjob.metadata.labels", {"app": "x"}, "does not look for runs with app=x"),
    ("rayjob.metadata.generateName", GONE, "can be created only once"),
    # The launcher.
    ("launcher.head_node_type", "heads", "no node type heads"),
    (f"{TYPES}.gpu-spot.node_config.InstanceMarketOptions", GONE, "not on the spot market"),
    (f"{TYPES}.head.node_config.InstanceMarketOptions", {"MarketType": "spot"}, "head is on the"),
    (f"{TYPES}.head.resources.CPU", 4, "replicas would land on the head"),
    (f"{TYPES}.gpu-spot.min_workers", 2, "does not grow from 0 machines with GPUs"),
    ("launcher.max_workers", 4, "max_workers is less than that of gpu-spot"),
    (f"{TYPES}.gpu-spot.node_config.IamInstanceProfile", GONE, "gpu-spot has no credentials"),
    # Credentials.
    (f"{POD}.containers.0.envFrom", GONE, "gpu-spot: no Secret gives it credentials"),
    (f"{SPEC}.runtimeEnvYAML", "env_vars: {AWS_SECRET_ACCESS_KEY: abcdefghij}", "written down"),
]


def change(found: Deployment, where: str, value: Any) -> None:
    """Plants a fault: a value at a dotted path, an end of a text (`+`), or a text for another."""
    path, _, old = where.partition(":")
    appended = path.endswith("+")
    keys = path.rstrip("+").split(".", 1)
    if keys[0] == "texts":
        assert old in found.texts[keys[1]], f"{old!r} does not stand in {keys[1]}"
        found.texts[keys[1]] = found.texts[keys[1]].replace(old, value)
        return
    at: Any = getattr(found, keys[0])
    *inner, last = keys[1].split(".")
    for key in inner:
        at = at[int(key)] if isinstance(at, list) else at[key]
    last = int(last) if isinstance(at, list) else last
    if value is GONE:
        del at[last]
    else:
        at[last] = at[last] + value if appended else value


def assert_told(check: Check, fault: Fault) -> None:
    where, value, message = fault
    found = deployment()
    change(found, where, value)
    told = check(found)
    assert message
    assert any(message in text for text in told), told


def names(faults: list[Fault]) -> list[str]:
    return [f"{where.rpartition('.')[2]}={str(value)[:20]}" for where, value, _ in faults]


@pytest.mark.parametrize("fault", RULE_FAULTS, ids=names(RULE_FAULTS))
def test_a_planted_fault_breaks_a_rule(fault: Fault) -> None:
    assert_told(rules.problems, fault)


@pytest.mark.parametrize("fault", CRD_FAULTS, ids=names(CRD_FAULTS))
def test_a_planted_fault_breaks_kuberays_schema(fault: Fault) -> None:
    assert_told(schemas.crd_problems, fault)


@pytest.mark.parametrize("fault", CORE_FAULTS, ids=names(CORE_FAULTS))
def test_a_planted_fault_breaks_kubernetes_schema(fault: Fault) -> None:
    assert_told(schemas.core_problems, fault)


@pytest.mark.parametrize("fault", LAUNCHER_FAULTS, ids=names(LAUNCHER_FAULTS))
def test_a_planted_fault_breaks_the_launchers_schema(fault: Fault) -> None:
    assert_told(schemas.launcher_problems, fault)


# --- scripts


class TestSchedule:
    """The script of the CronJob, where `kubectl` is a stub."""

    @pytest.mark.parametrize(
        ("states", "creates"),
        [
            ("", True),
            ("[Complete][Failed][ValidationFailed]", True),
            ("[Complete][Running]", False),
            ("[]", False),  # one that has just been created
            ("[Retrying]", False),
        ],
    )
    def test_a_run_is_created_unless_one_is_under_way(
        self, states: str, creates: bool, tmp_path: Path
    ) -> None:
        stub = tmp_path / "kubectl"
        stub.write_text(
            f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n[ "$1" = create ] || printf %s "{states}"\n'
        )
        stub.chmod(0o755)
        spec = deployment().schedule["CronJob"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
        container = spec["containers"][0]

        done = subprocess.run(
            [*container["command"], *container["args"]],
            env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=True, capture_output=True, text=True,
        )  # fmt: skip

        calls = (tmp_path / "calls").read_text().splitlines()
        assert ("create --filename /job/rayjob.yaml" in calls) == creates
        assert ("a run is under way" in done.stdout) != creates


def slurm_words(folder: Path, right: str = "", wrong: str = "") -> list[str]:
    """What srun is told, where in the script `wrong` stands for `right`."""
    text = (FOLDER / "slurm.sbatch").read_text()
    assert right in text
    return run_sbatch(text.replace(right, wrong) if right else text, folder, code=0)[0]


def slurm_config(words: list[str]) -> JobConfig:
    command = words[words.index("--") + 1 :]
    assert command[:2] == ["env", "RAY_ADDRESS=auto"]
    return config_of(command[2:])


def slurm_node(words: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of `ray symmetric-run` and of the `ray start` that it makes on each node."""
    from ray.scripts.scripts import start
    from ray.scripts.symmetric_run import symmetric_run

    assert words[:2] == ["ray", "symmetric-run"]
    own = symmetric_run.make_context("symmetric-run", words[2 : words.index("--")])
    rest = list(own.params["ray_args_and_entrypoint"])
    return own.params, start.make_context("start", ["--address=n1:24711", *rest]).params


class TestSlurm:
    """The batch script, where `srun` and `scontrol` only note what they are told."""

    def test_a_run_gets_every_gpu_and_drains_before_the_time_limit(self, tmp_path: Path) -> None:
        options = sbatch_options((FOLDER / "slurm.sbatch").read_text())

        config = slurm_config(slurm_words(tmp_path))

        hours, minutes, seconds = map(int, options["time"].split(":"))
        limit_s = 3600 * hours + 60 * minutes + seconds
        assert config.run.output == "/data/my music"
        assert config.cluster.replicas == SLURM_NODES * SLURM_GPUS
        assert config.cluster.gpus_per_replica == 1
        assert options["ntasks-per-node"] == "1"
        assert int(options["gpus-per-node"]) * config.cluster.cpus_per_replica < int(
            options["cpus-per-task"]
        )
        assert config.run.max_runtime_s
        assert config.run.max_runtime_s + config.run.drain_s + 300 <= limit_s

    def test_symmetric_run_knows_its_options(self, tmp_path: Path) -> None:
        own, node = slurm_node(slurm_words(tmp_path))

        assert (own["address"], own["min_nodes"]) == ("n1:24711", SLURM_NODES)
        assert (node["num_gpus"], node["num_cpus"]) == (SLURM_GPUS, SLURM_CPUS)

    @pytest.mark.parametrize(("code", "requeued"), [(0, False), (3, False), (5, True), (1, False)])
    def test_what_was_drained_goes_back_to_the_queue(
        self, code: int, requeued: bool, tmp_path: Path
    ) -> None:
        text = (FOLDER / "slurm.sbatch").read_text()

        _, calls, ended = run_sbatch(text, tmp_path, code)

        assert ("requeue 4711" in calls) == requeued
        assert ended == code

    @pytest.mark.parametrize(
        ("right", "wrong"),
        [
            ("--slots 32", "--slotz 32"),
            ("--part-seconds", "--part-second=x"),
            ("--num-gpus", "--num-gpu-s"),
            ("--min-nodes", "--min-node-s"),
        ],
    )
    def test_a_planted_typo_is_told(self, right: str, wrong: str, tmp_path: Path) -> None:
        words = slurm_words(tmp_path, right, wrong)

        with pytest.raises(click.UsageError):
            slurm_config(words), slurm_node(words)


SCENE = """
mkdir bin && cat > bin/musicgen-batch <<'END'
#!/bin/bash
trap 'sleep 1; echo driver drained; exit 5' TERM
while :; do sleep 0.1; done
END
chmod +x bin/musicgen-batch
bin/musicgen-batch run --slots 3 &
(exec -a 'ray::MapWorker(MapBatches(Replica))' sleep 1.5) && echo replica done &
sleep 0.3
bash drain.sh
echo gone
"""


def test_a_pod_goes_when_its_driver_and_its_replicas_are_done(tmp_path: Path) -> None:
    """In a process namespace of its own: drain.sh signals by name."""
    if subprocess.run(["unshare", "--pid", "--fork", "true"], check=False).returncode:
        pytest.skip("no process namespaces here")
    shutil.copy(FOLDER / "drain.sh", tmp_path)
    (tmp_path / "scene.sh").write_text(SCENE)

    done = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount-proc", "bash", "scene.sh"],
        cwd=tmp_path, capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip

    assert sorted(done.stdout.splitlines()[:-1]) == ["driver drained", "replica done"]
    assert done.stdout.splitlines()[-1] == "gone"


@pytest.mark.parametrize("script", ["slurm.sbatch", "drain.sh"])
def test_scripts_are_shell(script: str, tmp_path: Path) -> None:
    subprocess.run(["bash", "-n", str(FOLDER / script)], check=True)
    broken = tmp_path / script
    broken.write_text((FOLDER / script).read_text().replace("\ndone", "").replace("\nfi", ""))
    assert subprocess.run(["bash", "-n", str(broken)], check=False, capture_output=True).returncode
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", str(FOLDER / script)], check=True)


def test_the_readme_names_every_file_and_no_other() -> None:
    text = (FOLDER / "README.md").read_text()
    named = set(re.findall(r"(?:deploy/|`)([\w-]+\.(?:yaml|sbatch|sh|lock))", text)) - {"job.yaml"}
    there = {path.name for path in FOLDER.iterdir()} - {"README.md"}

    assert named | {"Dockerfile", "Dockerfile.dockerignore"} == there
    assert "deploy/Dockerfile" in text
