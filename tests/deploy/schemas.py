"""The schemas that others publish: KubeRay's CRDs, Kubernetes' own, the cluster launcher's."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import ray

from tests.deploy.files import ROOT, Deployment, Document

CRDS = Path(os.environ.get("MUSICGEN_CRDS", ROOT.parent / "shared" / "crds"))
KUBERNETES = "1.33.0"


def crd_problems(found: Deployment) -> list[str]:
    """What the API server would refuse; skips the test where the CRDs are not at hand."""
    if not CRDS.is_dir():
        pytest.skip(f"no KubeRay schemas in {CRDS}; MUSICGEN_CRDS may name their folder")
    return [
        f"{document['kind']}: {fault}"
        for document in (found.rayjob, found.raycronjob)
        for fault in _faults(_crd(document["kind"].lower()), document)
    ]


def core_problems(found: Deployment) -> list[str]:
    """The same for the objects of Kubernetes itself, unknown keys included."""
    problems = []
    for kind, document in found.schedule.items():
        try:
            kubernetes_validate.validate(document, KUBERNETES, strict=True)
        except kubernetes_validate.ValidationError as error:
            problems.append(f"{kind}: {'.'.join(map(str, error.path))}: {error.message}")
    return problems


def launcher_problems(found: Deployment) -> list[str]:
    """What `ray up` would refuse."""
    return [f"launcher: {fault}" for fault in _faults(_launcher(), found.launcher)]


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
