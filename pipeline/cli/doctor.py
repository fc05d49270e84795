"""`musicgen-batch doctor`: checks a machine, an output and a cluster before a long run."""

import json
import os
import shlex
import shutil
import textwrap
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.errors import EXIT_CRASH, errors_to_exit_codes
from pipeline.cli.options import given_flags
from pipeline.cli.speech import answer, is_quiet, speech_options, verbose_option, wants_json
from pipeline.config import ConfigError, JobConfig
from pipeline.config_file import load_config

if TYPE_CHECKING:
    from pipeline.runtime.checkup.finding import Finding
    from pipeline.runtime.checkup.machine import Asked

NOT_NAMED = "memory://not-named"
JOB_S = 1800.0
POLL_S = 1.0
WORDS = {"ok": "OK", "note": "NOTE", "wrong": "WRONG"}
STATE_COLUMNS, CHECK_COLUMNS = 7, 15


@click.command(
    epilog="""\b
Examples:
  musicgen-batch doctor --model /models/musicgen-small --output s3://b/music
  musicgen-batch doctor --config job.yaml --cluster auto
  musicgen-batch doctor --config job.yaml --cluster http://head:8265 --json

\b
Each line is OK, NOTE (a run goes on without it) or WRONG with the way out. The exit code is 0
where nothing is wrong, else 1. The check of an output writes 4 MB below doctor/ and deletes them.
"""
)
@click.option("--config", metavar="JOB.YAML", help="Settings file; flags override it.")
@click.option("--model", help="Checkpoint to look at: folder, hub id or short name.")
@click.option("--output", help="Root of the dataset: written, listed, read and timed.")
@click.option(
    "--storage-option", "storage_options", multiple=True, metavar="KEY=VALUE",
    help="fsspec option, e.g. endpoint_url=http://localhost:7480; no credentials.",
)  # fmt: skip
@click.option(
    "--cluster", metavar="ADDRESS",
    help="Ray cluster, each node of which is checked: HOST:PORT of its head, auto for the one of "
    "this machine, or http://HEAD:8265 to check it from within, as a job. [default: $RAY_ADDRESS, "
    "else this machine]",
)  # fmt: skip
@click.option(
    "--executable", default="musicgen-batch", show_default=True,
    help="How the head of an http:// cluster calls this program.",
)  # fmt: skip
@click.option("--working-dir", metavar="FOLDER", help="Uploaded for the job of an http:// cluster.")
@speech_options
@verbose_option
@errors_to_exit_codes
def doctor(
    config: str | None, cluster: str | None, executable: str, working_dir: str | None, **flags: Any
) -> None:
    """Check this machine, or a Ray cluster, before a long run.

    Python and packages, torch with CUDA, GPUs, memory, disk, the checkpoint (complete, offline),
    the output (write, list, read, exclusive create, clock), ports, Ray's resources.
    """
    settings = _settings(config, given_flags(flags))
    address = cluster or os.environ.get("RAY_ADDRESS")
    if address is not None and address.startswith("http"):
        found = _as_job(address, executable, working_dir, settings)
    else:
        found = _here(address, settings)
    findings = _told(found)
    ok = all(each.state != "wrong" for each in findings)
    answer(_closing(findings), {"ok": ok, "checks": [each.as_json() for each in findings]})
    if not ok:
        raise click.exceptions.Exit(EXIT_CRASH)


def _settings(config: str | None, flags: dict[str, Any]) -> JobConfig:
    """Of the file and the flags; a model and an output need not be named."""
    unnamed = {"model": {"name": ""}, "run": {"manifest": "-", "output": NOT_NAMED}}
    found = load_config(config, flags, unnamed)
    if found.run.output.startswith("memory://") and found.run.output != NOT_NAMED:
        raise ConfigError("--output memory://: nothing of it would stay; name a folder or s3://")
    return found


def _asked(settings: JobConfig) -> "Asked":
    from pipeline.runtime.checkup.machine import Asked

    output = settings.run.output
    return Asked(
        model=settings.model.source if settings.model.name else None,
        output=None if output == NOT_NAMED else output,
        storage_options=settings.run.storage_options,
    )


def _here(address: str | None, settings: JobConfig) -> "Iterator[Finding]":
    """The checks of this machine, or of the cluster that it joins."""
    if address is None:
        from pipeline.runtime.checkup.machine import Machine

        needs_gpu = settings.engine.device == "cuda" or bool(settings.cluster.gpus_per_replica)
        return Machine(replace(_asked(settings), needs_gpu=needs_gpu)).findings()
    from pipeline.runtime.checkup.nodes import cluster

    return cluster(address, _asked(settings), settings)


def _as_job(
    address: str, executable: str, working_dir: str | None, settings: JobConfig
) -> "Iterator[Finding]":
    """The checks of a cluster that only its dashboard leads to."""
    from pipeline.cli.submit import connect, runtime_env
    from pipeline.runtime.checkup.finding import OK, WRONG, Finding, from_json

    try:
        client = connect(address)
        job = client.submit_job(
            entrypoint=f"{executable} {shlex.join(_flags(settings))}",
            runtime_env=runtime_env(0.0, working_dir, (), ()),
        )
    except (ConfigError, OSError, RuntimeError, ValueError) as error:
        said, _, way_out = str(error).partition("; ")
        yield Finding("ray", WRONG, said, way_out or "see `ray status` on the head")
        return
    yield Finding("ray jobs", OK, f"{address} takes jobs ({job})")
    ends = time.monotonic() + JOB_S
    while not client.get_job_status(job).is_terminal():
        if time.monotonic() > ends:
            client.stop_job(job)
            yield Finding(
                "ray jobs", WRONG, f"the check did not end within {JOB_S:g} s",
                f"see `ray job logs --address {address} {job}`",
            )  # fmt: skip
            return
        time.sleep(POLL_S)
    lines = [line for line in client.get_job_logs(job).splitlines() if line.startswith('{"ok"')]
    if lines:
        yield from map(from_json, json.loads(lines[-1])["checks"])
        return
    said = client.get_job_info(job).message or "it said nothing"
    yield Finding(
        "ray jobs", WRONG, f"the check ended without an answer: {said.splitlines()[0][:200]}",
        "the head needs this package: name it with --executable, or take a checkout along with "
        "--working-dir . --executable 'python -m pipeline.cli'",
    )  # fmt: skip


def _flags(settings: JobConfig) -> list[str]:
    """The command that the head runs: all settings are in it, no file of this machine."""
    words = ["doctor", "--cluster", "auto", "--json"]
    if settings.model.name:
        folder = Path(settings.model.name).expanduser()
        words += ["--model", str(folder.absolute()) if folder.is_dir() else settings.model.name]
    if settings.run.output != NOT_NAMED:
        words += ["--output", settings.run.output]
    for key, value in settings.run.storage_options.items():
        text = value if isinstance(value, str) else json.dumps(value)
        words += ["--storage-option", f"{key}={text}"]
    return words


# --- what people read


def _told(findings: "Iterable[Finding]") -> "list[Finding]":
    """All findings; each is printed as soon as it is known."""
    told: list[Finding] = []
    waiting: list[Finding] = []  # nodes that say the same share a line
    for finding in findings:
        if waiting and not _same(waiting[0], finding):
            _print(waiting)
            waiting = []
        waiting.append(finding)
        told.append(finding)
    if waiting:
        _print(waiting)
    return told


def _same(one: "Finding", other: "Finding") -> bool:
    keys = [(each.check, each.state, each.found, bool(each.node)) for each in (one, other)]
    return keys[0] == keys[1]


def _print(findings: "list[Finding]") -> None:
    first = findings[0]
    if wants_json() or (is_quiet() and first.state != "wrong"):
        return
    nodes = [each.node for each in findings if each.node]
    where = f"{nodes[0]}: " if len(nodes) == 1 else f"{len(nodes)} nodes: " if nodes else ""
    width = max(60, min(shutil.get_terminal_size((80, 24)).columns, 100))
    margin = " " * (STATE_COLUMNS + CHECK_COLUMNS)
    state = click.style(f"{WORDS[first.state]:{STATE_COLUMNS}}", fg=_colour(first.state))
    lines = textwrap.wrap(
        f"{first.check:{CHECK_COLUMNS}}{where}{first.found}", width - STATE_COLUMNS,
        subsequent_indent=" " * CHECK_COLUMNS, break_on_hyphens=False, break_long_words=False,
        drop_whitespace=True,
    )  # fmt: skip
    click.echo(state + f"\n{' ' * STATE_COLUMNS}".join(lines))
    if first.way_out:
        way = textwrap.wrap(
            f"-> {first.way_out}", width, initial_indent=margin, subsequent_indent=margin + "   ",
            break_on_hyphens=False, break_long_words=False,
        )  # fmt: skip
        click.echo("\n".join(way))


def _colour(state: str) -> str:
    return {"ok": "green", "note": "yellow"}.get(state, "red")


def _closing(findings: "list[Finding]") -> str:
    from pipeline.telemetry.words import counted

    wrong = [each.check for each in findings if each.state == "wrong"]
    if not wrong:
        return f"nothing is wrong ({counted(len(findings), 'check')})"
    return f"{counted(len(wrong), 'check')} of {len(findings)} failed: {', '.join(wrong)}"
