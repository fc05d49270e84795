"""The nightly runs: exit codes, who may do what, and the script that copies the template."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline import config as settings
from pipeline.cli import errors
from tests.deploy.faults import GONE, Fault, assert_told, names
from tests.deploy.files import deployment
from tests.deploy.nightly_rules import WANTED, nightly_problems, submitted

NIGHT = "nightly.CronJob.spec"
JOB = f"{NIGHT}.jobTemplate.spec"
POD = f"{JOB}.template.spec"
CRON = "schedule.CronJob.spec"
CRON_POD = f"{CRON}.jobTemplate.spec.template.spec"


def test_the_nightly_files_follow_their_rules() -> None:
    assert nightly_problems(deployment()) == []


def test_every_exit_code_of_the_program_has_a_verdict() -> None:
    places = vars(errors) | vars(settings)
    codes = {value for name, value in places.items() if name.startswith("EXIT_")}
    assert set(WANTED) == {0} | codes


def test_the_date_is_filled_where_the_pod_calls_submit() -> None:
    config = submitted(deployment())

    assert "{" not in config.run.manifest
    assert config.run.manifest.startswith("s3://bucket/prompts/20")


FAULTS: list[Fault] = [
    # Exit codes.
    (f"{JOB}.podFailurePolicy", GONE, "exit code 2 is again, not failed"),
    (f"{JOB}.podFailurePolicy.rules.1.onExitCodes.values", [2, 4], "exit code 3 is again, not f"),
    (f"{JOB}.podFailurePolicy.rules.1.onExitCodes.values", [1, 2, 3, 4], "exit code 1 is failed"),
    (f"{JOB}.podFailurePolicy.rules.1.onExitCodes.operator", "NotIn", "exit code 5 is failed"),
    (f"{JOB}.podFailurePolicy.rules.1.onExitCodes.containerName", "x", "names the container x"),
    (f"{JOB}.podFailurePolicy.rules.0", GONE, "a pod that is evicted counts as a failure"),
    (f"{JOB}.backoffLimit", 4, "5 tries are not over by activeDeadlineSeconds"),
    (f"{JOB}.backoffLimit", 0, "exit code 5 is failed, not again"),
    (f"{POD}.restartPolicy", "OnFailure", "needs restartPolicy Never"),
    (f"{NIGHT}.concurrencyPolicy", "Allow", "nightly: concurrencyPolicy is not Forbid"),
    # What is submitted.
    (f"{POD}.containers.0.command", ["ray"], "does not call `musicgen-batch submit`"),
    (f"{POD}.containers.0.args.2", "--manifest=s3://b/p.parquet", "address has no {date}"),
    (f"{POD}.containers.0.args.2", "--manifest=s3://b/{dat}.parquet", "{dat}"),
    (f"{POD}.containers.0.args.5", "--replicaz=8", "No such option"),
    (f"{POD}.containers.0.args.6", "--retry-on=1", "No such option"),
    (f"{POD}.containers.0.args.6", "--part-clips=64", "--gpus-per-replica is missing"),
    (f"{POD}.containers.0.args.7", "--tolerate-dead-letters", "hides exit code 3"),
    (f"{POD}.containers.0.args.14", "--verbose", "without --wait an evicted pod's second try"),
    (
        f"{POD}.containers.0.args.13",
        "--max-runtime=6h",
        "4 tries are not over by activeDeadlineSeconds",
    ),
    (f"{POD}.containers.0.args.13", "--max-runtime=1h", "use less than 20 h of the day"),
    (f"{JOB}.activeDeadlineSeconds", 90_000, "may read the next day's manifest"),
    (f"{NIGHT}.schedule", "0 22 * * *", "does not begin soon after midnight"),
    (f"{NIGHT}.timeZone", GONE, "does not begin soon after midnight in UTC"),
    (f"{POD}.containers.0.env", [], "has no token for the dashboard"),
    # The pod that copies the template.
    (f"{CRON}.concurrencyPolicy", "Allow", "CronJob: concurrencyPolicy is not Forbid"),
    (f"{CRON_POD}.serviceAccountName", "default", "no ServiceAccount default"),
    (f"{CRON_POD}.automountServiceAccountToken", False, "its pod has no token"),
    (f"{CRON_POD}.containers.0.args.0", "kubectl get rayjobs", "does not look for runs with"),
    (f"{CRON_POD}.containers.0.args.0", "kubectl get rayjobs", "does not copy musicgen-template"),
    ("schedule.Role.rules.0.verbs", ["get", "list"], "is not what `kubectl get` and `create"),
    ("schedule.Role.rules.0.resources", ["*"], "is not what `kubectl get` and `create"),
    ("schedule.RoleBinding.subjects.0.name", "x", "does not name the CronJob's account"),
    ("schedule.RoleBinding.roleRef.name", "x", "does not name the Role"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=names(FAULTS))
def test_a_planted_fault_breaks_a_rule_of_the_nightly_runs(fault: Fault) -> None:
    assert_told(nightly_problems, fault)


STUB = """#!/bin/sh
echo "$@" >> {folder}/calls
case "$*" in
  *jsonpath*) printf %s "{states}" ;;
  "get rayjob musicgen-template"*) cat {folder}/template.json ;;
  create*) cat > {folder}/created.json ;;
esac
"""


class TestSchedule:
    """The script of the overlay nightly-rayjob, where `kubectl` is a stub."""

    @pytest.mark.skipif(not shutil.which("jq"), reason="the image alpine/k8s has jq, this has not")
    @pytest.mark.parametrize(
        ("states", "creates"),
        [
            ("", True),
            ("[Complete][Failed][ValidationFailed]", True),
            ("[Complete][Running]", False),
            ("[]", False),  # one that has just been created
            ("[Retrying]", False),
        ],
    )
    def test_a_copy_of_the_template_runs_unless_a_run_is_under_way(
        self, states: str, creates: bool, tmp_path: Path
    ) -> None:
        stub = tmp_path / "kubectl"
        stub.write_text(STUB.format(folder=tmp_path, states=states))
        stub.chmod(0o755)
        template = deployment().rayjob
        template["metadata"] |= {"name": "musicgen-template", "uid": "1", "resourceVersion": "7"}
        template["metadata"]["labels"]["app.kubernetes.io/name"] = "musicgen-template"
        template["spec"]["suspend"] = True
        template["status"] = {"jobDeploymentStatus": "Suspended"}
        (tmp_path / "template.json").write_text(json.dumps(template))
        pod = deployment().schedule["CronJob"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
        container = pod["containers"][0]

        done = subprocess.run(
            [*container["command"], *container["args"]],
            env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=True, capture_output=True, text=True,
        )  # fmt: skip

        made = tmp_path / "created.json"
        assert ("a run is under way" in done.stdout) != creates
        assert made.exists() == creates
        if creates:
            created = json.loads(made.read_text())
            assert created["metadata"] == {
                "generateName": "musicgen-",
                "labels": template["metadata"]["labels"]
                | {"app.kubernetes.io/name": "musicgen-batch"},
            }
            assert created["spec"] == template["spec"] | {"suspend": False}
            assert "status" not in created
