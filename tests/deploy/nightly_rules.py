"""What the nightly runs must hold: who may create what, and which exit code is tried again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import click

from pipeline.cli.options import given_flags
from pipeline.cli.root import main
from pipeline.config import ConfigError, JobConfig
from pipeline.config_file import load_config
from tests.deploy.files import Deployment, Document

Verdict = Literal["done", "again", "failed"]
# What Kubernetes is to make of each exit code of a run.
WANTED: dict[int, Verdict] = {
    **{0: "done", 1: "again", 5: "again"},
    **{2: "failed", 3: "failed", 4: "failed"},
}
TEMPLATE = "musicgen-template"
START_S = 900  # until GPU machines are there and the model is loaded


def nightly_problems(found: Deployment) -> list[str]:
    """All rules at once."""
    return [*exit_code_rules(found), *submit_rules(found), *schedule_rules(found)]


def verdict(job: Document, code: int) -> Verdict:
    """What the Job controller makes of a pod that ended with `code`: the first rule that fits
    decides; without one a failure counts towards backoffLimit."""
    if code == 0:
        return "done"
    for rule in job.get("podFailurePolicy", {}).get("rules", []):
        codes = rule.get("onExitCodes")
        if codes is None:
            continue
        if (code in codes["values"]) == (codes["operator"] == "In"):
            if rule["action"] == "FailJob":
                return "failed"
            break
    return "again" if job.get("backoffLimit", 6) > 0 else "failed"


def exit_code_rules(found: Deployment) -> Iterator[str]:
    cron = found.nightly["CronJob"]["spec"]
    job = cron["jobTemplate"]["spec"]
    for code, wanted in WANTED.items():
        if (there := verdict(job, code)) != wanted:
            yield f"nightly: exit code {code} is {there}, not {wanted}"
    (container,) = job["template"]["spec"]["containers"]
    for rule in job.get("podFailurePolicy", {}).get("rules", []):
        named = rule.get("onExitCodes", {}).get("containerName", container["name"])
        if named != container["name"]:
            yield f"nightly: podFailurePolicy names the container {named}"
    if not any("onPodConditions" in r for r in job.get("podFailurePolicy", {}).get("rules", [])):
        yield "nightly: a pod that is evicted counts as a failure"
    if job["template"]["spec"].get("restartPolicy") != "Never":
        yield "nightly: podFailurePolicy needs restartPolicy Never"
    if cron.get("concurrencyPolicy") != "Forbid":
        yield "nightly: concurrencyPolicy is not Forbid"


def submitted(found: Deployment) -> JobConfig:
    """What the nightly pod submits, by `submit`'s own parser. click and ConfigError say no."""
    (container,) = found.nightly["CronJob"]["spec"]["jobTemplate"]["spec"]["template"]["spec"][
        "containers"
    ]
    command, *words = container["args"]
    if container["command"] != ["musicgen-batch"] or command != "submit":
        raise ConfigError("it does not call `musicgen-batch submit`")
    values = dict(main.commands[command].make_context(command, words).params)
    for own in ("address", "executable", "working_dir", "packages", "env", "detach"):
        values.pop(own)
    return load_config(values.pop("config"), given_flags(values))


def submit_rules(found: Deployment) -> Iterator[str]:
    cron = found.nightly["CronJob"]["spec"]
    job = cron["jobTemplate"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    try:
        config = submitted(found)
    except (click.UsageError, ConfigError) as error:
        yield f"nightly: {error}"
        return
    if not any("{date}" in word for word in container["args"] if word.startswith("--manifest")):
        yield "nightly: the manifest's address has no {date}"
    if config.cluster.gpus_per_replica is None:
        yield "nightly: --gpus-per-replica is missing, and no GPU is there at the start"
    if config.run.tolerate_dead_letters:
        yield "nightly: --tolerate-dead-letters hides exit code 3"
    if not config.run.wait:
        yield "nightly: without --wait an evicted pod's second try ends with 4, its run goes on"
    # The last try must end before the next night's begins, and before the day is another.
    tries = 1 + job["backoffLimit"]
    most_s = tries * ((config.run.max_runtime_s or 1e9) + config.run.drain_s + START_S)
    if most_s > job["activeDeadlineSeconds"]:
        yield f"nightly: {tries} tries are not over by activeDeadlineSeconds, and the run goes on"
    if job["activeDeadlineSeconds"] > 86_400 - 900:
        yield "nightly: a second try may read the next day's manifest"
    if tries * (config.run.max_runtime_s or 1e9) < 20 * 3600:
        yield f"nightly: {tries} tries of {config.run.max_runtime} use less than 20 h of the day"
    _minute, hour, *_ = cron["schedule"].split()
    if int(hour) > 1 or cron.get("timeZone") != "Etc/UTC":
        yield "nightly: it does not begin soon after midnight in UTC, whose day {date} names"
    variables = {item["name"] for item in container.get("env", [])}
    if found.cluster.get("authOptions", {}).get("mode") == "token" and not {
        "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"
    } <= variables:  # fmt: skip
        yield "nightly: the pod has no token for the dashboard"


def schedule_rules(found: Deployment) -> Iterator[str]:
    """The pod of the overlay nightly-rayjob may create RayJobs, and does nothing else."""
    pod = found.schedule["CronJob"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    if found.schedule["CronJob"]["spec"].get("concurrencyPolicy") != "Forbid":
        yield "CronJob: concurrencyPolicy is not Forbid"
    account = pod.get("serviceAccountName")
    role, binding = found.schedule["Role"], found.schedule["RoleBinding"]
    if account != found.schedule["ServiceAccount"]["metadata"]["name"]:
        yield f"CronJob: no ServiceAccount {account}"
    if [subject["name"] for subject in binding["subjects"]] != [account]:
        yield "RoleBinding: does not name the CronJob's account"
    if binding["roleRef"]["name"] != role["metadata"]["name"]:
        yield "RoleBinding: does not name the Role"
    allowed = {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    if allowed != {("ray.io", "rayjobs", verb) for verb in ("get", "list", "create")}:
        yield f"Role: {sorted(allowed)} is not what `kubectl get` and `create rayjobs` need"
    if not pod.get("automountServiceAccountToken"):
        yield "CronJob: its pod has no token"
    script = pod["containers"][0]["args"][0]
    if "--selector app.kubernetes.io/name=musicgen-batch " not in script:
        yield "CronJob: does not look for runs with app.kubernetes.io/name=musicgen-batch"
    if f"kubectl get rayjob {TEMPLATE} " not in script:
        yield f"CronJob: does not copy {TEMPLATE}"
