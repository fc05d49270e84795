"""The schemas that others publish: KubeRay's CRDs, Kubernetes' own, the cluster launcher's; and
those of `own_schemas` for what has none that can be had here."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import ray

from tests.deploy import own_schemas
from tests.deploy.files import ROOT, Deployment, Document

CRDS = Path(os.environ.get("MUSICGEN_CRDS", ROOT.parent / "shared" / "crds"))
KUBERNETES = "1.33.0"
RAY_KINDS = ("RayJob", "RayCluster", "RayCronJob")


def crd_problems(found: Deployment) -> list[str]:
    """What the API server would refuse of the base's RayJob."""
    return ray_problems([found.rayjob])


def ray_problems(documents: Iterable[Document]) -> list[str]:
    """The same for all objects of KubeRay; skips the test where the CRDs are not at hand."""
    if not CRDS.is_dir():
        pytest.skip(f"no KubeRay schemas in {CRDS}; MUSICGEN_CRDS may name their folder")
    return [
        f"{document['kind']}: {fault}"
        for document in documents
        if document["kind"] in RAY_KINDS
        for fault in _faults(_crd(document["kind"].lower()), document)
    ]


def core_problems(found: Deployment) -> list[str]:
    """What the API server would refuse of the objects of Kubernetes itself and of its add-ons."""
    groups = (found.base, found.weights, found.schedule, found.nightly, found.queue)
    documents = [document for group in groups for document in group.values()]
    return object_problems([*documents, found.monitor, found.prometheus_rule])


def object_problems(documents: Iterable[Document]) -> list[str]:
    """The same for any objects but KubeRay's, unknown keys included."""
    problems = []
    for document in documents:
        kind = document["kind"]
        if kind in RAY_KINDS:
            continue
        if kind in own_schemas.ADD_ONS:
            schema = jsonschema.Draft202012Validator(own_schemas.ADD_ONS[kind])
            problems += [f"{kind}: {fault}" for fault in _faults(schema, document)]
            continue
        try:
            kubernetes_validate.validate(document, KUBERNETES, strict=True)
        except kubernetes_validate.ValidationError as error:
            problems.append(f"{kind}: {'.'.join(map(str, error.path))}: {error.message}")
    return problems


def launcher_problems(found: Deployment) -> list[str]:
    """What `ray up` would refuse."""
    return [f"launcher: {fault}" for fault in _faults(_launcher(), found.launcher)]


def skypilot_problems(found: Deployment) -> list[str]:
    """What `sky jobs launch` would refuse."""
    schema = jsonschema.Draft202012Validator(own_schemas.SKYPILOT)
    return [f"skypilot: {fault}" for fault in _faults(schema, found.skypilot)]


def compose_problems(found: Deployment) -> list[str]:
    """What `docker compose` would refuse."""
    schema = jsonschema.Draft202012Validator(own_schemas.COMPOSE)
    return [f"compose: {fault}" for fault in _faults(schema, found.compose)]


def dashboard_problems(found: Deployment) -> list[str]:
    """What Grafana would not draw."""
    schema = jsonschema.Draft202012Validator(own_schemas.DASHBOARD)
    return [f"dashboard: {fault}" for fault in _faults(schema, found.dashboard)]


def _faults(validator: Any, document: Document) -> Iterator[str]:
    for error in validator.iter_errors(document):
        yield f"{'.'.join(map(str, error.path))}: {error.message[:300]}"


@cache
def _crd(kind: str) -> Any:
    schema = json.loads((CRDS / f"{kind}.ray.io_v1.json").read_text())
    return jsonschema.Draft202012Validator(schema)


@cache
def _launcher() -> Any:
    path = Path(ray.__file__).parent / "autoscaler" / "ray-schema.json"
    return jsonschema.Draft7Validator(json.loads(path.read_text()))
