"""`submit`: what travels to the cluster, what never does, and how a job's end is told.

A real cluster is in tests/integration/test_submit.py.
"""

import json
import shlex
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pipeline.cli import submit as module
from pipeline.cli.options import flags_of, given_flags
from pipeline.cli.root import main
from pipeline.config import JobConfig
from pipeline.config_file import load_config

NEEDED = {"manifest": "s3://b/m.parquet", "output": "s3://b/o", "model": "tiny"}
ID = "20260131T120000-a1b2c3"


class FakeCluster:
    """Takes one job, tells its log in two pieces, and ends it as it was told to."""

    def __init__(self, status: str, code: int | None) -> None:
        self.status, self.code = status, code
        self.job: dict[str, Any] = {}
        self.looks = 0

    def submit_job(self, **job: Any) -> None:
        self.job = job

    def get_job_info(self, job_id: str) -> Any:
        assert job_id == self.job["submission_id"]
        self.looks += 1
        ended = self.looks > 2
        return SimpleNamespace(
            status=_Status(self.status if ended else "RUNNING"),
            driver_exit_code=self.code if ended else None,
            message="node died",
            entrypoint=self.job["entrypoint"],
        )

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        yield "line one\n"
        if self.looks == 1:
            raise RuntimeError("the connection broke")
        yield "line two\n"

    def get_job_logs(self, job_id: str) -> str:
        return "line one\nline two\nline three\n"


class _Status(str):
    def is_terminal(self) -> bool:
        return self != "RUNNING"


def submit(
    monkeypatch: pytest.MonkeyPatch, cluster: FakeCluster, *args: str, **needed: str
) -> Result:
    monkeypatch.setattr(module, "connect", lambda address: cluster)
    monkeypatch.setattr(module, "POLL_S", 0.0)
    given = [f"--{name}={value}" for name, value in (NEEDED | needed).items()]
    return CliRunner().invoke(main, ["submit", "--address", "http://head:8265", *given, *args])


def parsed(entrypoint: str) -> JobConfig:
    """The config that `run` makes of the words of an entry point."""
    words = shlex.split(entrypoint)
    assert words[:2] == ["musicgen-batch", "run"]
    context = main.commands["run"].make_context("run", words[2:])
    return load_config(context.params.pop("config"), given_flags(context.params))


FULL = {
    "slots": 4, "verbose": True, "wait": False, "audio_bits": 24, "device": "cpu",
    "qc": {"max_clip_ratio": 0.1}, "max_runtime": "8h", "tolerate_dead_letters": True,
    "extra_columns": ["promt", "a b"], "replica_resources": {"slot": 0.5},
    "storage_options": {
        "endpoint_url": "http://x:1", "number": 3, "text": "3", "yes": "true", "anon": True,
        "client_kwargs": {"region_name": "eu west", "deep": [1, None]},
    },
    "duration_s": 2.5, "use_sampling": False, "seed": 0, "runtime": "ray", "revision": "v1",
}  # fmt: skip


def test_flags_give_the_config_again() -> None:
    """Whatever a settings file holds fits into flags: numbers, texts like numbers, nesting."""
    config = load_config(None, NEEDED | FULL)

    again = parsed(shlex.join(["musicgen-batch", "run", *flags_of(config)]))

    assert again == config
    assert again.model_dump(exclude_unset=True) == config.model_dump(exclude_unset=True)


def test_settings_are_read_here_and_travel_resolved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").mkdir()
    (tmp_path / "job.yaml").write_text(
        "engine: {slots: 3}\nrun: {output: out/here}\ngeneration: {top_k: 7}\n"
    )
    cluster = FakeCluster("SUCCEEDED", 0)
    places = {"output": "out/there", "manifest": "m.parquet", "model": "weights"}

    result = submit(monkeypatch, cluster, "--config", "job.yaml", **places)

    assert result.exit_code == 0, result.output
    config = parsed(cluster.job["entrypoint"])
    assert (config.engine.slots, config.generation.top_k) == (3, 7)
    assert config.run.output == str(tmp_path / "out/there")
    assert config.run.manifest == str(tmp_path / "m.parquet")
    assert config.model.name == str(tmp_path / "weights")
    assert "job.yaml" not in cluster.job["entrypoint"]
    assert "a local path; every node of the cluster must see it" in result.output


def test_the_run_has_the_id_of_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    named, unnamed = FakeCluster("SUCCEEDED", 0), FakeCluster("SUCCEEDED", 0)

    submit(monkeypatch, named, "--run-id", ID)
    submit(monkeypatch, unnamed)

    assert named.job["submission_id"] == parsed(named.job["entrypoint"]).run.run_id == ID
    assert unnamed.job["submission_id"] == parsed(unnamed.job["entrypoint"]).run.run_id
    assert unnamed.job["submission_id"] != ID


def test_detached_it_prints_the_id_and_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = FakeCluster("FAILED", 1)

    result = submit(monkeypatch, cluster, "--detach", "--run-id", ID)

    assert (result.exit_code, result.stdout, cluster.looks) == (0, f"{ID}\n", 0)
    assert f"ray job stop --address http://head:8265 {ID}" in result.stderr


def test_the_log_is_shown_once_although_the_connection_broke(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    result = submit(monkeypatch, FakeCluster("SUCCEEDED", 0))

    assert result.stdout == "line one\nline two\nline three\n"


ENDS = {
    "all done": ("SUCCEEDED", 0, 0, ""),
    "a crash": ("FAILED", 1, 1, ""),
    "bad input": ("FAILED", 2, 2, ""),
    "dead letters": ("FAILED", 3, 3, ""),
    "lease held": ("FAILED", 4, 4, ""),
    "out of budget": ("FAILED", 5, 5, ""),
    "stopped by `ray job stop`": ("STOPPED", None, 5, "the same command goes on"),
    "the head node died": ("FAILED", None, 1, "before its driver did: node died"),
    "no such command there": ("FAILED", 127, 2, r"does not know the command (musicgen-batch)"),
    "killed": ("FAILED", 137, 1, "the driver ended with 137: a signal"),
}


@pytest.mark.parametrize("case", ENDS)
def test_the_exit_code_is_the_drivers(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    status, code, expected, said = ENDS[case]

    result = submit(monkeypatch, FakeCluster(status, code))

    assert result.exit_code == expected
    assert said in result.stderr


def test_what_ray_sets_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The stop signal gives a driver time to drain: Ray's own patience is 3 s."""
    cluster = FakeCluster("SUCCEEDED", 0)
    more = [
        "--drain-s",
        "45",
        "--working-dir",
        str(tmp_path),
        "--package",
        "demucs==4.1",
        "--env",
        "HF_HOME=/mnt/hub",
    ]

    submit(monkeypatch, cluster, *more)

    assert cluster.job["runtime_env"] == {
        "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "165", "HF_HOME": "/mnt/hub"},
        "working_dir": str(tmp_path),
        "pip": ["demucs==4.1"],
    }


def test_credentials_stay_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the environment of this machine nor a flag takes one to the dashboard."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "MUSICGEN_C2PA_KEY"):
        monkeypatch.setenv(name, "s3cr3t")
    cluster = FakeCluster("SUCCEEDED", 0)

    submit(monkeypatch, cluster)

    assert "s3cr3t" not in json.dumps(cluster.job)
    for refused in (
        ["--env", "AWS_SECRET_ACCESS_KEY=s3cr3t"],
        ["--env", "HF_TOKEN=s3cr3t"],
        ["--env", "MUSICGEN_C2PA_KEY=s3cr3t"],
        ["--env", "ENDPOINT=http://me:s3cr3t@host"],
        ["--package", "https://me:s3cr3t@host/x.whl"],
        ["--storage-option", "secret=s3cr3t"],
    ):
        cluster = FakeCluster("SUCCEEDED", 0)
        result = submit(monkeypatch, cluster, *refused)
        assert (result.exit_code, cluster.job) == (2, {}), refused
        assert "credentials are not accepted here" in result.stderr
        assert "s3cr3t" not in result.output


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--env", "HF_HOME"], "--env HF_HOME: write NAME=VALUE"),
        (["--working-dir", "no/such"], "--working-dir no/such: no such folder"),
        (["--run-id", "mine"], "run_id='mine'"),
        (["--slots", "0"], "slots=0"),
    ],
)
def test_bad_input_is_told_before_anything_is_sent(
    args: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = FakeCluster("SUCCEEDED", 0)

    result = submit(monkeypatch, cluster, *args)

    assert (result.exit_code, cluster.job) == (2, {})
    assert message in result.stderr


def test_a_cluster_that_is_not_there_is_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where RAY_ADDRESS names another one, which Ray would take instead."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")
    monkeypatch.setenv(module.ADDRESS_VARIABLE, "http://127.0.0.1:1")
    given = [f"--{name}={value}" for name, value in NEEDED.items()]

    result = CliRunner().invoke(main, ["submit", "--address", url, *given])

    assert result.exit_code == 2
    assert f"no Ray cluster answers at {url}" in result.stderr
    assert "kubectl port-forward" in result.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "no cluster is named; give --address"),
        (["--address", "ray://head:10001"], "is that of a Ray Client; jobs go to the dashboard"),
    ],
)
def test_an_address_that_can_not_be_one(
    args: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(module.ADDRESS_VARIABLE, raising=False)
    given = [f"--{name}={value}" for name, value in NEEDED.items()]

    result = CliRunner().invoke(main, ["submit", *args, *given])

    assert result.exit_code == 2
    assert message in result.stderr
