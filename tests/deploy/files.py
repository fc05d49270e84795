"""What `deploy/` holds, read once; a test changes a copy and sees who notices."""

from __future__ import annotations

import copy
import re
import shlex
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
TEXTS = ("Dockerfile", "drain.sh", "slurm.sbatch", "requirements.lock")
SLURM_NODES, SLURM_GPUS, SLURM_CPUS = 2, 8, 64


@dataclass
class Deployment:
    """The parsed files by name; `texts` holds what is not YAML."""

    rayjob: Document
    raycronjob: Document
    schedule: dict[str, Document]  # the documents of cronjob.yaml by kind
    kustomization: Document
    launcher: Document
    texts: dict[str, str]
    project: Document  # pyproject.toml

    @property
    def cluster(self) -> Document:
        return dict(self.rayjob["spec"]["rayClusterSpec"])

    @property
    def pods(self) -> dict[str, Document]:
        """Pod specs of the RayJob by name of their group."""
        workers = self.cluster["workerGroupSpecs"]
        groups = {group["groupName"]: group for group in workers}
        groups |= {"head": self.cluster["headGroupSpec"]}
        return {name: group["template"]["spec"] for name, group in groups.items()}


def deployment() -> Deployment:
    """A copy that a test may change."""
    return copy.deepcopy(_read())


@cache
def _read() -> Deployment:
    def one(name: str) -> Document:
        return dict(yaml.safe_load((FOLDER / name).read_text()))

    documents = yaml.safe_load_all((FOLDER / "cronjob.yaml").read_text())
    return Deployment(
        rayjob=one("rayjob.yaml"),
        raycronjob=one("raycronjob.yaml"),
        schedule={document["kind"]: document for document in documents},
        kustomization=one("kustomization.yaml"),
        launcher=one("cluster-aws.yaml"),
        texts={name: (FOLDER / name).read_text() for name in TEXTS},
        project=tomllib.loads((ROOT / "pyproject.toml").read_text()),
    )


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
