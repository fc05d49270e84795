"""The RayJob of the base stands up to KubeRay's schema and rules; and each check is seen to fail:
every planted fault below is told."""

import pytest

from tests.deploy import rayjob_rules, schemas
from tests.deploy.faults import CLUSTER, GONE, HEAD, POD, SPEC, WORKERS, Fault, assert_told, names
from tests.deploy.files import deployment


def test_the_rayjob_follows_kuberays_rules() -> None:
    assert rayjob_rules.rayjob_problems(deployment()) == []


def test_kuberay_takes_the_rayjob() -> None:
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
    (f"{SPEC}.submitterPodTemplate.spec.containers", GONE, "'containers' is a required property"),
    (f"{CLUSTER}.autoscalerOptions.securityContext.privilegd", 1, "'privilegd' was unexpected"),
]  # fmt: skip

RULE_FAULTS: list[Fault] = [
    # The controller's own.
    ("base.RayJob.metadata.name", "x" * 48, "no DNS-1035 label of at most 47"),
    ("base.RayJob.metadata.name", "Musicgen-", "no DNS-1035 label"),
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
    (f"{POD}.containers.0.resources.limits.ephemeral-storage", GONE, "is evicted when the disk"),
    (f"{HEAD}.serviceAccountName", "default", "head: is not the service account's"),
    # Credentials.
    (f"{POD}.containers.0.envFrom", GONE, "gpu-spot: no Secret gives it credentials"),
    (f"{SPEC}.runtimeEnvYAML", "env_vars: {AWS_SECRET_ACCESS_KEY: abcdefghij}", "written down"),
]


@pytest.mark.parametrize("fault", RULE_FAULTS, ids=names(RULE_FAULTS))
def test_a_planted_fault_breaks_a_rule(fault: Fault) -> None:
    assert_told(rayjob_rules.rayjob_problems, fault)


@pytest.mark.parametrize("fault", CRD_FAULTS, ids=names(CRD_FAULTS))
def test_a_planted_fault_breaks_kuberays_schema(fault: Fault) -> None:
    assert_told(schemas.crd_problems, fault)
