"""`musicgen-batch submit`: a run as a job of a Ray cluster that is there already."""

import asyncio
import logging
import math
import os
import shlex
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline import ledger
from pipeline.cli.errors import EXIT_BAD_INPUT, EXIT_CRASH, errors_to_exit_codes
from pipeline.cli.options import JobCommand, flags_of, given_flags, job_options
from pipeline.cli.speech import answer, is_quiet, say, speech_options, wants_json, warn
from pipeline.config import EXIT_DRAINED, ConfigError, JobConfig, secret_names
from pipeline.config_file import load_config

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

ADDRESS_VARIABLE = "RAY_API_SERVER_ADDRESS"
# What a driver has, after its drain, to commit and to leave before `ray job stop` kills it.
LEAVE_S = 120
POLL_S = 1.0
PATIENCE_S = 60.0  # with a cluster that does not answer while its job runs
OUR_CODES = range(6)
COMMAND_NOT_FOUND = 127  # a shell's


@click.command(
    cls=JobCommand,
    epilog="""\b
Examples:
  musicgen-batch submit --address http://head:8265 --config job.yaml \\
      --manifest s3://b/prompts.parquet --output s3://b/music
  musicgen-batch submit --address http://head:8265 --detach --run-id 20260131T120000-a1b2c3 \\
      --manifest s3://b/prompts.parquet --output s3://b/music --model facebook/musicgen-small
  musicgen-batch submit --address http://head:8265 --working-dir . \\
      --executable 'python -m pipeline.cli' --config job.yaml \\
      --manifest /mnt/shared/prompts.parquet --output /mnt/shared/music

\b
Credentials never travel with a job, whose settings the dashboard shows to everyone: the
cluster's nodes need them (a Kubernetes Secret, an instance role, the environment of `ray start`).
""",
)
@click.option(
    "--address",
    envvar=ADDRESS_VARIABLE,
    metavar="URL",
    help=f"Dashboard of the cluster, e.g. http://head:8265. [default: ${ADDRESS_VARIABLE}]",
)
@click.option(
    "--executable",
    default="musicgen-batch",
    help="How the head node calls this program. [default: musicgen-batch]",
)
@click.option(
    "--working-dir", metavar="FOLDER", help="Uploaded; the job's folder, first on its import path."
)
@click.option(
    "--package",
    "packages",
    multiple=True,
    metavar="REQUIREMENT",
    help="Installed by pip for this job, on every node.",
)
@click.option(
    "--env",
    "env",
    multiple=True,
    metavar="NAME=VALUE",
    help="Environment of the job, e.g. HF_HOME=/mnt/hub; no credentials.",
)
@click.option("--detach", is_flag=True, help="Print the id and return; do not follow the job.")
@job_options
@speech_options
@errors_to_exit_codes
def submit(
    address: str | None,
    executable: str,
    working_dir: str | None,
    packages: tuple[str, ...],
    env: tuple[str, ...],
    detach: bool,
    config: str | None,
    **flags: Any,
) -> None:
    """Start `run` as a job of a Ray cluster, follow its log, and end with its exit code.

    The options are those of `run`. The settings file is read here and travels inside the command;
    the manifest, the output and a local model are looked up on the cluster. The id of the run is
    the id of the job. Interrupting this command leaves the job alone.
    """
    settings = load_config(config, given_flags(flags))
    run_id = settings.run.run_id or ledger.new_run_id()
    job = {
        "entrypoint": entrypoint(executable, settings.with_flags(run_id=run_id)),
        "submission_id": run_id,
        "runtime_env": runtime_env(settings.run.drain_s, working_dir, packages, env),
    }
    client = connect(address)
    _hint_at_local_paths(settings)
    try:
        client.submit_job(**job)
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigError(f"the cluster did not take the job: {error}") from error
    watch = Watch(client, run_id, _dashboard(address))
    if detach:
        answer(run_id, {"job": run_id, "address": watch.address})
        say(watch.hints)
        return
    say(f"job {run_id} is on {watch.address}")
    code = watch.exit_code()
    if wants_json():
        answer("", {"job": run_id, "address": watch.address, "exit_code": code})
    raise click.exceptions.Exit(code)


def entrypoint(executable: str, config: JobConfig) -> str:
    """The command that the head node runs: everything is in it, no file of this machine."""
    return f"{executable} {shlex.join(['run', *flags_of(_absolute_model(config))])}"


def runtime_env(
    drain_s: float, working_dir: str | None, packages: tuple[str, ...], env: tuple[str, ...]
) -> dict[str, Any]:
    """What Ray sets up for the job; ConfigError where a credential would be on show.

    Ray gives a job 3 s to end when it is stopped, unless the job's environment says otherwise.
    """
    variables = {}
    for text in env:
        name, mark, value = text.partition("=")
        if not mark or not name:
            raise ConfigError(f"--env {name}: write NAME=VALUE")
        variables[name] = value
    named = {f"--package number {number}": text for number, text in enumerate(packages, 1)}
    on_show = list(secret_names(variables | named))
    if on_show:
        raise ConfigError(
            f"{', '.join(on_show)}: credentials are not accepted here, the dashboard shows them to "
            "everyone; give them to the cluster's nodes (see deploy/README.md)"
        )
    if working_dir is not None and not Path(working_dir).is_dir():
        raise ConfigError(f"--working-dir {working_dir}: no such folder")
    found: dict[str, Any] = {
        "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(math.ceil(drain_s) + LEAVE_S)} | variables,
        "working_dir": working_dir,
        "pip": list(packages) or None,
    }
    return {name: value for name, value in found.items() if value is not None}


def connect(address: str | None) -> "JobSubmissionClient":
    """The cluster's job server; ConfigError, with a way out, where there is none."""
    if not address:
        raise ConfigError(
            f"no cluster is named; give --address http://HEAD:8265 or set {ADDRESS_VARIABLE}"
        )
    if address.startswith("ray://"):
        raise ConfigError(
            f"--address {address} is that of a Ray Client; jobs go to the dashboard, "
            "http://HEAD:8265"
        )
    from ray.exceptions import RayError
    from ray.job_submission import JobSubmissionClient

    # Ray prefers its variables, RAY_ADDRESS too, to the address that it is given.
    os.environ[ADDRESS_VARIABLE] = url = _dashboard(address)
    for chatty in ("job.sdk", "dashboard_sdk"):
        logging.getLogger(f"ray.dashboard.modules.{chatty}").setLevel(logging.WARNING)
    try:
        return JobSubmissionClient(url)
    except (OSError, RuntimeError, ValueError, KeyError, RayError) as error:
        raise ConfigError(
            f"no Ray cluster answers at {url} ({error}); is it the dashboard's address? Start a "
            "cluster with `ray start --head`, or reach one in Kubernetes with "
            "`kubectl port-forward service/NAME-head-svc 8265`"
        ) from error


@dataclass
class Watch:
    """Follows one job to its end."""

    client: "JobSubmissionClient"
    job_id: str
    address: str
    n_shown: int = field(default=0, init=False)  # characters of the log

    @property
    def hints(self) -> str:
        """What people can do about a job that they don't follow."""
        at = f"--address {self.address}"
        return (
            f"follow it with `ray job logs {at} --follow {self.job_id}`, "
            f"stop it with `ray job stop {at} {self.job_id}`"
        )

    def exit_code(self) -> int:
        """Shows the log until the job ends; the driver's own exit code."""
        try:
            return code_of(self._end())
        except KeyboardInterrupt:
            warn(f"the job goes on; {self.hints}")
            return EXIT_CRASH

    def _end(self) -> "JobDetails":
        heard = time.monotonic()
        while True:
            try:
                details = self.client.get_job_info(self.job_id)
                heard = time.monotonic()
                if details.status.is_terminal():
                    self._show(self.client.get_job_logs(self.job_id), 0)
                    return details
                asyncio.run(self._follow())
            except (OSError, RuntimeError) as error:
                if time.monotonic() - heard > PATIENCE_S:
                    warn(f"{self.address} has not answered for {PATIENCE_S:g} s; {self.hints}")
                    raise click.exceptions.Exit(EXIT_CRASH) from error
            time.sleep(POLL_S)

    async def _follow(self) -> None:
        """Shows the log as it grows, until the job ends; Ray begins at the top each time."""
        n_seen = 0
        async for text in self.client.tail_job_logs(self.job_id):
            self._show(text, n_seen)
            n_seen += len(text)

    def _show(self, text: str, start: int) -> None:
        """Prints what is new in a piece of the log that begins at character `start`."""
        new = text[max(self.n_shown - start, 0) :]
        if new:
            if not is_quiet():
                click.echo(new, nl=False, err=wants_json())
            self.n_shown = start + len(text)


def code_of(details: "JobDetails") -> int:
    """Our exit code for the end of a job, with a word where it is not the driver's own."""
    code, status = details.driver_exit_code, str(details.status)
    if status == "STOPPED":
        warn("the job was stopped: what is committed stands; the same command goes on from there")
        return EXIT_DRAINED
    if code is None:
        warn(f"the job ended as {status} before its driver did: {details.message}")
        return EXIT_CRASH
    if code == COMMAND_NOT_FOUND:
        warn(
            f"the head node does not know the command ({details.entrypoint.split()[0]}); install "
            "musicgen-batch there, or name its path with --executable"
        )
        return EXIT_BAD_INPUT
    if code not in OUR_CODES:
        warn(f"the driver ended with {code}: a signal, or the head node ran out of memory")
        return EXIT_CRASH
    return int(code)


def _dashboard(address: str | None) -> str:
    text = (address or "").rstrip("/")
    return text if "://" in text else f"http://{text}"


def _absolute_model(config: JobConfig) -> JobConfig:
    folder = Path(config.model.name).expanduser()
    return config.with_flags(model=str(folder.absolute())) if folder.is_dir() else config


def _hint_at_local_paths(config: JobConfig) -> None:
    places = {
        "--manifest": config.run.manifest,
        "--output": config.run.output,
        "--model": config.model.name,
    }
    local = [f"{flag} {place}" for flag, place in places.items() if place.startswith("/")]
    if local:
        say(f"{', '.join(local)}: a local path; every node of the cluster must see it there")
