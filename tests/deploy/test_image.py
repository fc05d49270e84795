"""The image: one Ray everywhere, a lock that holds all, a Dockerfile that hadolint passes."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.faults import CLUSTER, POD, Fault, assert_told, names
from tests.deploy.files import FOLDER, deployment
from tests.deploy.image_rules import image_problems

HADOLINT = Path(sys.executable).parent / "hadolint"


def test_the_image_and_all_that_names_it_agree() -> None:
    assert image_problems(deployment()) == []


IMAGE_FAULTS: list[Fault] = [
    # Versions.
    (f"{CLUSTER}.rayVersion", "2.59.0", "rayVersion 2.59.0 is not the image's 2.60.0"),
    (f"{POD}.containers.0.image", "registry.example.com/musicgen-batch:latest", "is not the head"),
    ("launcher.docker.image", "rayproject/ray:2.60.0", "is not tagged with our version"),
    ("compose.services.ray.image", "musicgen-batch:latest", "compose: image musicgen-batch:lat"),
    ("skypilot.resources.image_id", "docker:ray", "skypilot: image ray is not"),
    (
        "nightly.CronJob.spec.jobTemplate.spec.template.spec.containers.0.image",
        "ray:1",
        "nightly: image ray:1 is not",
    ),
    ("weights.Job.spec.template.spec.containers.0.image", "ray:1", "weights: image ray:1 is not"),
    ("texts.Dockerfile:ray:2.60.0-py311", "ray:2.59.0-py311", "is not the image's 2.59.0"),
    ("texts.Dockerfile:ray:2.60.0-py311", "ray:2.70.0-py311", "ray 2.70.0 is outside pyproject's"),
    ("texts.Dockerfile:ray:2.60.0-py311", "ray:latest", "FROM is not rayproject/ray:VERSION"),
    ("texts.Dockerfile:-py311", "-py310", "Python 3.10 is outside requires-python"),
    ("texts.Dockerfile:-cu130", "-cu128", "is for CUDA 13.0"),
    # The image and its lock.
    ("texts.Dockerfile:USER 1000:100", "USER root", "Dockerfile: ends as root"),
    ("texts.Dockerfile:USER 1000:100", "USER ray", "a name that Kubernetes can't tell from root"),
    ("texts.Dockerfile:org.opencontainers.image.licenses", "licence", "no label licenses"),
    ('texts.Dockerfile:name="docker.io/rayproject/ray:2.60.0', 'name="ray', "is not what FROM"),
    ('texts.Dockerfile:image.version="0.1.0', 'image.version="0.0.9', "version is not pyproject"),
    ("texts.Dockerfile: --require-hashes", "", "without --require-hashes"),
    ("texts.Dockerfile:musicgen musicgen", "musicgenn musicgen", "copies musicgenn, which does"),
    ("texts.Dockerfile:COPY --chown=1000:100 manifests manifests", "", "does not copy manifests"),
    ("texts.Dockerfile:gcc libc6-dev", "", "does not install gcc"),
    ("texts.Dockerfile:ARG MODEL", "ARG WEIGHTS", "weights can't be baked in"),
    ("texts.requirements.lock:\nclick==", "\nclack==", "lock: click is missing"),
    ("texts.requirements.lock:\npydantic==2", "\npydantic==1", "is outside <3,>=2.9"),
    ("texts.requirements.lock:\nray==2.60.0", "\nray==2.61.0", "the lock's ray 2.61.0 is not"),
    ("project.project.dependencies.0", "ray[data]>=2.61,<2.64", "outside pyproject's"),
    ("project.project.dependencies.14", "sqlalchemy>=2", "lock: sqlalchemy is missing"),
]


@pytest.mark.parametrize("fault", IMAGE_FAULTS, ids=names(IMAGE_FAULTS))
def test_a_planted_fault_breaks_a_rule_of_the_image(fault: Fault) -> None:
    assert_told(image_problems, fault)


def hadolint(text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(HADOLINT), "--no-color", "-"], input=text, capture_output=True, text=True, check=False
    )


def test_hadolint_passes_the_dockerfile() -> None:
    done = hadolint((FOLDER / "Dockerfile").read_text())

    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize(
    ("right", "wrong", "rule"),
    [
        ("FROM rayproject/ray:2.60.0-py311-cu130", "FROM rayproject/ray", "DL3006"),
        ("--no-install-recommends ", "", "DL3015"),
        ("--no-cache-dir --require-hashes", "--require-hashes", "DL3042"),
        ("WORKDIR /opt/musicgen-batch", "WORKDIR opt", "DL3000"),
        ("    && apt-get install", "    && cd /tmp && sudo apt-get install", "DL3004"),
        ("RUN pip install --no-cache-dir --no-deps", "RUNN pip", "DL1000"),
    ],
)
def test_a_planted_fault_is_told_by_hadolint(right: str, wrong: str, rule: str) -> None:
    text = (FOLDER / "Dockerfile").read_text()
    assert right in text

    done = hadolint(text.replace(right, wrong))

    assert done.returncode != 0
    assert rule in done.stdout or rule == "DL1000", done.stdout
