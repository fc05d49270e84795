"""Checks Python, the installed packages, and whether torch, torchaudio and CUDA go together."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from typing import Any

from pipeline.runtime.checkup.finding import NOTE, OK, WRONG, Finding

DISTRIBUTION = "musicgen-batch"
OLDEST, TOO_NEW = (3, 11), (3, 14)
PROBE = "pipeline.runtime.checkup.torch_probe"
PROBE_S = 300.0
REINSTALL = f"install it anew in a fresh environment: pip install {DISTRIBUTION}"
# Packages that a run uses where they are, and what it does where they are not.
OPTIONAL = {
    "demucs": "melodies are taken from the whole mix, not from its stems",
    "torchcodec": "torchaudio.load of your own scripts needs it; a run reads by soundfile",
    "c2pa": "nothing here can read or sign statements of where a clip comes from",
}


def python() -> Iterator[Finding]:
    """The interpreter and the machine's kind."""
    release = platform.python_version()
    there = f"{release} on {platform.system()} {platform.machine()}"
    if not OLDEST <= sys.version_info[:2] < TOO_NEW:
        yield Finding(
            "python", WRONG, f"{there}: 3.11 to 3.13 are supported",
            "make an environment with one of them: python3.12 -m venv .venv",
        )  # fmt: skip
    elif platform.system() != "Linux" or platform.machine() != "x86_64":
        yield Finding("python", NOTE, f"{there}: only Linux on x86_64 is tested")
    else:
        yield Finding("python", OK, there)


def packages() -> Iterator[Finding]:
    """Every package that this one needs is there, in a version that it takes."""
    from packaging.requirements import Requirement

    try:
        needed = [Requirement(text) for text in requires(DISTRIBUTION) or ()]
    except PackageNotFoundError:
        yield Finding(
            "packages", WRONG, f"{DISTRIBUTION} is not installed, only its files are there",
            "run `pip install .` in the checkout",
        )  # fmt: skip
        return
    wanted = [each for each in needed if each.marker is None or each.marker.evaluate({"extra": ""})]
    bad = False
    for requirement in wanted:
        try:
            there = version(requirement.name)
        except PackageNotFoundError:
            fault = f"{requirement.name} is not installed"
        else:
            if requirement.specifier.contains(there, prereleases=True):
                continue
            fault = f"{requirement.name} {there} is outside {requirement.specifier}"
        bad = True
        yield Finding("packages", WRONG, fault, f"pip install '{requirement}'")
    if not bad:
        told = ", ".join(f"{name} {version(name)}" for name in ("ray", "torch", "pyarrow"))
        own = f"{DISTRIBUTION} {version(DISTRIBUTION)}"
        yield Finding("packages", OK, f"{own} with {len(wanted)} packages, of them {told}")


def optional() -> Iterator[Finding]:
    """Packages without which a run goes on."""
    for name, without in OPTIONAL.items():
        if find_spec(name) is None:
            yield Finding(name, NOTE, f"not installed: {without}", f"pip install {_wheel(name)}")
            continue
        try:
            yield Finding(name, OK, version(_wheel(name)))
        except PackageNotFoundError:
            yield Finding(name, OK, "installed, its version is not known")


def _wheel(module: str) -> str:
    return {"c2pa": "c2pa-python"}.get(module, module)


def probe_torch() -> tuple[dict[str, Any], list[Finding]]:
    """What torch says of itself and of its GPUs, asked in a process of its own: a broken native
    library ends that process, not this one.

    Returns:
        Its facts (empty where it cannot be loaded), and the findings about torch itself.
    """
    environment = dict(os.environ)
    if environment.get("CUDA_VISIBLE_DEVICES") == "":  # Ray hides GPUs from tasks that ask for none
        del environment["CUDA_VISIBLE_DEVICES"]
    try:
        done = subprocess.run(
            [sys.executable, "-m", PROBE],
            env=environment, capture_output=True, text=True, check=False, timeout=PROBE_S,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {}, [Finding("torch", WRONG, f"not loaded after {PROBE_S:g} s", REINSTALL)]
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        said = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
        return {}, [Finding("torch", WRONG, f"cannot be loaded: {said}", REINSTALL)]
    facts: dict[str, Any] = json.loads(lines[-1])
    return facts, [_torch(facts)]


def _torch(facts: dict[str, Any]) -> Finding:
    cuda = f"built for CUDA {facts['cuda']}" if facts["cuda"] else "built without CUDA"
    torch = f"torch {facts['torch']}, {cuda}"
    if facts["torchaudio_error"]:
        return Finding(
            "torch", WRONG, f"{torch}; torchaudio cannot be loaded: {facts['torchaudio_error']}",
            "install the pair of deploy/requirements.lock: torchaudio refuses a torch that was "
            "built for another CUDA version",
        )  # fmt: skip
    return Finding("torch", OK, f"{torch}, with torchaudio {facts['torchaudio']}")
