"""What the image, its lock and every place that names it must agree upon."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import version

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from tests.deploy.files import ROOT, Deployment, Document

BASE_IMAGE = re.compile(r"^FROM rayproject/ray:([\d.]+)-py(\d)(\d+)-cu(\d+)$", re.MULTILINE)
LABELS = ("title", "description", "version", "revision", "licenses", "base.name")


def image_problems(found: Deployment) -> list[str]:
    """All rules of this file at once."""
    rules = (version_rules, image_rules, lock_rules)
    return [problem for rule in rules for problem in rule(found)]


def version_rules(found: Deployment) -> Iterator[str]:
    """One Ray everywhere: base image, rayVersion, image tags, lock, pyproject, this environment."""
    base = BASE_IMAGE.search(found.texts["Dockerfile"])
    if base is None:
        yield "Dockerfile: FROM is not rayproject/ray:VERSION-pyXY-cuNNN"
        return
    ray, python, cuda = base[1], f"{base[2]}.{base[3]}", base[4]
    images = {name: pod["containers"][0]["image"] for name, pod in found.pods.items()}
    images["launcher"] = found.launcher["docker"]["image"]
    images["submitter"] = _image(found.rayjob["spec"]["submitterPodTemplate"])
    images["nightly"] = _image(found.nightly["CronJob"]["spec"]["jobTemplate"]["spec"]["template"])
    images["weights"] = _image(found.weights["Job"]["spec"]["template"])
    images["skypilot"] = found.skypilot["resources"]["image_id"].removeprefix("docker:")
    images["compose"] = found.compose["services"]["ray"]["image"]
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
    user = (re.findall(r"^USER (\S+)", text, re.MULTILINE) or ["root"])[-1]
    if not re.fullmatch(r"[1-9]\d*:\d+", user):
        yield "Dockerfile: ends as root, or as a name that Kubernetes can't tell from root"
    for label in LABELS:
        if f"org.opencontainers.image.{label}=" not in text:
            yield f"Dockerfile: no label {label}"
    base = BASE_IMAGE.search(text)
    if base is None or f'base.name="docker.io/{base[0].removeprefix("FROM ")}"' not in text:
        yield "Dockerfile: the label base.name is not what FROM says"
    if f'image.version="{found.project["project"]["version"]}"' not in text:
        yield "Dockerfile: the label version is not pyproject's"
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


def _image(template: Document) -> str:
    return str(template["spec"]["containers"][0]["image"])


def _required(found: Deployment) -> list[Requirement]:
    return [Requirement(text) for text in found.project["project"]["dependencies"]]


def _locked(found: Deployment) -> dict[str, str]:
    return dict(
        re.findall(r"^([\w.-]+)==([^\s;]+)", found.texts["requirements.lock"], re.MULTILINE)
    )
