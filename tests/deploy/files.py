"""What `deploy/` holds, read once; a test changes a copy and sees who notices."""

from __future__ import annotations

import copy
import json
import re
import shlex
import shutil
import subprocess
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import click
import yaml

from pipeline.cli.options import given_flags
from pipeline.cli.root import main
from pipeline.config import ConfigError, JobConfig
from pipeline.config_file import load_config

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy"
Document = dict[str, Any]
KUBERNETES, MONITORING = FOLDER / "kubernetes", FOLDER / "monitoring"
OVERLAYS = ("once", "nightly", "nightly-rayjob", "nightly-raycronjob")
TEXTS = ("Dockerfile", "drain.sh", "slurm.sbatch", "requirements.lock")
Documents = dict[str, Document]  # by kind
SLURM_NODES, SLURM_GPUS, SLURM_CPUS = 2, 8, 64


@dataclass
class Deployment:
    """The parsed files by name; `texts` holds what is not YAML."""

    base: Documents
    weights: Documents
    schedule: Documents  # cronjob.yaml of the overlay nightly-rayjob
    nightly: Documents  # cronjob.yaml of the overlay nightly
    queue: Documents  # of Kueue
    monitor: Document
    alerts: Document
    prometheus_rule: Document
    dashboard: Document
    launcher: Document
    skypilot: Document
    compose: Document
    texts: dict[str, str]
    project: Document  # pyproject.toml

    @property
    def rayjob(self) -> Document:
        return self.base["RayJob"]

    @property
    def cluster(self) -> Document:
        return dict(self.rayjob["spec"]["rayClusterSpec"])

    @property
    def pods(self) -> dict[str, Document]:
        """Pod specs of the RayJob by name of their group."""
        return {name: template["spec"] for name, template in ray_templates(self.cluster).items()}


def ray_templates(cluster: Document) -> dict[str, Document]:
    """Pod templates of a RayCluster's spec by name of their group."""
    groups = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    groups |= {"head": cluster["headGroupSpec"]}
    return {name: group["template"] for name, group in groups.items()}


def pod_templates(document: Document) -> dict[str, Document]:
    """Every pod template of an object of Kubernetes, by a name for people."""
    kind, spec = document["kind"], document.get("spec", {})
    if kind == "RayJob":
        found = ray_templates(spec["rayClusterSpec"])
        return found | {"submitter": spec.get("submitterPodTemplate", {})}
    if kind == "RayCluster":
        return ray_templates(spec)
    if kind == "RayCronJob":
        return pod_templates({"kind": "RayJob", "spec": spec["jobTemplate"]})
    if kind == "CronJob":
        return {f"CronJob {document['metadata']['name']}": spec["jobTemplate"]["spec"]["template"]}
    if kind == "Job":
        return {f"Job {document['metadata']['name']}": spec["template"]}
    return {}


def deployment() -> Deployment:
    """A copy that a test may change."""
    return copy.deepcopy(_read())


def one(path: str) -> Document:
    """The only document of a YAML file of `deploy/`."""
    return dict(yaml.safe_load((FOLDER / path).read_text()))


def several(*paths: str) -> Documents:
    """The documents of YAML files of `deploy/`."""
    texts = [(FOLDER / path).read_text() for path in paths]
    found = [document for text in texts for document in yaml.safe_load_all(text)]
    return {document["kind"]: document for document in found}


@cache
def _read() -> Deployment:
    base, overlays = "kubernetes/base", "kubernetes/overlays"
    return Deployment(
        base=several(*(f"{base}/{name}.yaml" for name in ("rayjob", "service-account")))
        | several(f"{base}/network-policy.yaml"),
        weights=several("kubernetes/weights/pvc.yaml", "kubernetes/weights/fill.yaml"),
        schedule=several(f"{overlays}/nightly-rayjob/cronjob.yaml"),
        nightly=several(f"{overlays}/nightly/cronjob.yaml"),
        queue=several("kubernetes/components/kueue/queue.yaml"),
        monitor=one("monitoring/pod-monitor.yaml"),
        alerts=one("monitoring/alerts.yaml"),
        prometheus_rule=one("monitoring/prometheus-rule.yaml"),
        dashboard=json.loads((MONITORING / "dashboard.json").read_text()),
        launcher=one("cluster-aws.yaml"),
        skypilot=one("skypilot.yaml"),
        compose=one("compose/compose.yaml"),
        texts={name: (FOLDER / name).read_text() for name in TEXTS},
        project=tomllib.loads((ROOT / "pyproject.toml").read_text()),
    )


def has_kustomize() -> bool:
    return shutil.which("kubectl") is not None


def built(path: Path) -> list[Document]:
    """The objects that kustomize makes of a folder; a copy."""
    return [document for document in yaml.safe_load_all(_build(path.resolve())) if document]


@cache
def _build(path: Path) -> str:
    done = subprocess.run(
        ["kubectl", "kustomize", str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def config_of(command: list[str]) -> JobConfig:
    """What `run` makes of a command line, by its own parser. click and ConfigError say no."""
    context = main.commands[command[1]].make_context(command[1], command[2:])
    return load_config(context.params.pop("config"), given_flags(context.params))


def entrypoint(found: Deployment) -> list[str]:
    return shlex.split(found.rayjob["spec"]["entrypoint"])


def parsed_entrypoint(found: Deployment) -> JobConfig | None:
    """None where it does not parse: `rules.entrypoint_rules` says why."""
    try:
        return config_of(entrypoint(found))
    except (click.UsageError, ConfigError):
        return None


def run_sbatch(text: str, folder: Path, code: int) -> tuple[list[str], list[str], int]:
    """Runs the batch script where `srun` and `scontrol` only note what they are told.

    Returns:
        The words that srun got, the lines of all calls of scontrol, and the exit code.
    """
    stubs = {
        "srun": f'printf "%s\\n" "$@" > {folder}/srun; exit {code}',
        "scontrol": f'echo "$@" >> {folder}/scontrol; [ "$1" != show ] || printf "n1\\nn2\\n"',
    }
    for name, body in stubs.items():
        path = folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/bash\n{body}\n")
        path.chmod(0o755)
    script = folder / "slurm.sbatch"
    script.write_text(text)
    environment = {
        "PATH": f"{folder}/bin:/usr/bin:/bin", "SLURM_JOB_ID": "4711",
        "SLURM_JOB_NUM_NODES": str(SLURM_NODES), "SLURM_GPUS_ON_NODE": str(SLURM_GPUS),
        "SLURM_CPUS_PER_TASK": str(SLURM_CPUS), "SLURM_JOB_NODELIST": "n[1-2]",
        "MANIFEST": "/data/m.parquet", "OUTPUT": "/data/my music", "MODEL": "/data/small",
    }  # fmt: skip
    done = subprocess.run(["bash", str(script)], env=environment, check=False, cwd=folder)
    words = (folder / "srun").read_text().splitlines()
    return words, (folder / "scontrol").read_text().splitlines(), done.returncode


def sbatch_options(text: str) -> dict[str, str]:
    return dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", text, re.MULTILINE))
