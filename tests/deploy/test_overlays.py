"""What kustomize makes of the base: every overlay is admitted, taken by KubeRay, and one image."""

from pathlib import Path

import pytest

from pipeline.config import JobConfig
from tests.deploy import rayjob_rules, schemas
from tests.deploy.files import (
    FOLDER,
    KUBERNETES,
    OVERLAYS,
    Document,
    built,
    deployment,
    has_kustomize,
    parsed_entrypoint,
    pod_templates,
)
from tests.deploy.nightly_rules import TEMPLATE
from tests.deploy.pod_security import restricted_problems

CLUSTER_WIDE = ("ResourceFlavor", "ClusterQueue")

needs_kustomize = pytest.mark.skipif(
    not has_kustomize(), reason="no kubectl, whose kustomize builds"
)


@needs_kustomize
@pytest.mark.parametrize("overlay", [*OVERLAYS, "../weights", "../base"])
def test_what_kustomize_makes_is_admitted(overlay: str) -> None:
    documents = built(KUBERNETES / "overlays" / overlay)

    assert schemas.object_problems(documents) == []
    templates = {n: t for each in documents for n, t in pod_templates(each).items()}
    assert templates
    assert {name: restricted_problems(each) for name, each in templates.items()} == {
        key: [] for key in templates
    }
    namespaced = [d for d in documents if d["kind"] not in ("Namespace", *CLUSTER_WIDE)]
    if overlay in OVERLAYS:
        assert {d["metadata"].get("namespace") for d in namespaced} == {"musicgen"}
        (namespace,) = [d for d in documents if d["kind"] == "Namespace"]
        assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


@needs_kustomize
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kuberay_takes_what_kustomize_makes(overlay: str) -> None:
    assert schemas.ray_problems(built(KUBERNETES / "overlays" / overlay)) == []


@needs_kustomize
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_our_image_stands_everywhere_by_its_digest(overlay: str) -> None:
    templates = {
        name: each
        for document in built(KUBERNETES / "overlays" / overlay)
        for name, each in pod_templates(document).items()
    }
    images = {
        name: container["image"]
        for name, template in templates.items()
        for container in template["spec"]["containers"]
        if name != "CronJob musicgen-schedule"
    }
    assert all("musicgen-batch@sha256:" in image for image in images.values()), images
    assert len(set(images.values())) == 1


@needs_kustomize
def test_the_overlays_hold_the_clusters_of_the_base() -> None:
    def of(overlay: str, kind: str) -> Document:
        (found,) = [d for d in built(KUBERNETES / "overlays" / overlay) if d["kind"] == kind]
        return dict(found["spec"])

    base = of("../base", "RayJob")
    once, template = of("once", "RayJob"), of("nightly-rayjob", "RayJob")
    cron, standing = of("nightly-raycronjob", "RayCronJob"), of("nightly", "RayCluster")
    assert template["suspend"] is True
    assert _without_images(cron["jobTemplate"]) == _without_images(
        base | {"entrypoint": cron["jobTemplate"]["entrypoint"]}
    )
    assert _without_images(standing) == _without_images(base["rayClusterSpec"])
    assert once["rayClusterSpec"]["workerGroupSpecs"][0]["maxReplicas"] == 4
    for spec in (once, template, cron["jobTemplate"]):
        found = deployment()
        found.base["RayJob"]["spec"] = spec
        assert rayjob_rules.rayjob_problems(found) == []
        assert isinstance(parsed_entrypoint(found), JobConfig)
    assert "{date}" in template["entrypoint"]
    assert "{date}" in cron["jobTemplate"]["entrypoint"]
    (named,) = [
        d for d in built(KUBERNETES / "overlays" / "nightly-rayjob") if d["kind"] == "RayJob"
    ]
    assert named["metadata"]["name"] == TEMPLATE


def _without_images(spec: Document) -> str:
    text = repr(spec)
    for image in {
        container["image"]
        for template in pod_templates(
            {"kind": "RayJob" if "rayClusterSpec" in spec else "RayCluster", "spec": spec}
        ).values()
        for container in template["spec"]["containers"]
    }:
        text = text.replace(image, "IMAGE")
    return text


@needs_kustomize
def test_components_change_what_they_say(tmp_path: Path) -> None:
    relative = "../" * len(tmp_path.relative_to("/").parts) + str(FOLDER).lstrip("/")
    (tmp_path / "kustomization.yaml").write_text(
        f"resources: [{relative}/kubernetes/base]\n"
        f"components: [{relative}/kubernetes/components/pull-secret, "
        f"{relative}/kubernetes/components/kueue]\n"
    )

    documents = built(tmp_path)

    by_kind = {document["kind"]: document for document in documents}
    rayjob = by_kind["RayJob"]
    assert by_kind["ServiceAccount"]["imagePullSecrets"] == [{"name": "musicgen-registry"}]
    assert (
        rayjob["metadata"]["labels"]["kueue.x-k8s.io/queue-name"]
        == (by_kind["LocalQueue"]["metadata"]["name"])
    )
    assert rayjob["spec"]["suspend"] is True
    assert not rayjob["spec"]["rayClusterSpec"]["enableInTreeAutoscaling"]
    assert schemas.object_problems(documents) == []
    assert schemas.ray_problems(documents) == []
    assert quota_problems(by_kind) == []
    by_kind["ClusterQueue"]["spec"]["resourceGroups"][0]["flavors"][0]["resources"][0][
        "nominalQuota"
    ] = "40"
    assert quota_problems(by_kind) == ["cpu: 50.25 are asked for, the queue has 40"]


def quota_problems(by_kind: dict[str, Document]) -> list[str]:
    """What a run asks for that its queue never has: Kueue would not admit it."""
    spec = by_kind["RayJob"]["spec"]
    workers = spec["rayClusterSpec"]["workerGroupSpecs"][0]["replicas"]
    times = {"gpu-spot": workers}
    asked: dict[str, float] = {}
    for name, template in pod_templates(by_kind["RayJob"]).items():
        requests = template["spec"]["containers"][0]["resources"]["requests"]
        for resource, amount in requests.items():
            asked[resource] = asked.get(resource, 0) + times.get(name, 1) * _amount(amount)
    (group,) = by_kind["ClusterQueue"]["spec"]["resourceGroups"]
    quota = {r["name"]: _amount(r["nominalQuota"]) for r in group["flavors"][0]["resources"]}
    return [
        f"{name}: {amount:g} are asked for, the queue has {quota.get(name, 0):g}"
        for name, amount in asked.items()
        if amount > quota.get(name, 0)
    ]


def _amount(text: str) -> float:
    for suffix, factor in (("Gi", 2.0**30), ("Mi", 2.0**20), ("m", 1e-3)):
        if text.endswith(suffix):
            return float(text.removesuffix(suffix)) * factor
    return float(text)


@needs_kustomize
def test_a_planted_fault_in_a_patch_is_told(tmp_path: Path) -> None:
    relative = "../" * len(tmp_path.relative_to("/").parts) + str(FOLDER).lstrip("/")
    (tmp_path / "kustomization.yaml").write_text(
        f"resources: [{relative}/kubernetes/base]\n"
        "patches:\n"
        "  - target: {kind: RayJob}\n"
        "    patch: |\n"
        "      - op: add\n"
        "        path: /spec/rayClusterSpec/headGroupSpec/template/spec/hostIPC\n"
        "        value: true\n"
        "      - {op: add, path: /spec/backofLimit, value: 3}\n"
    )

    (rayjob,) = [each for each in built(tmp_path) if each["kind"] == "RayJob"]

    assert restricted_problems(pod_templates(rayjob)["head"]) == ["hostIPC is set"]
    assert any("'backofLimit' was unexpected" in text for text in schemas.ray_problems([rayjob]))
