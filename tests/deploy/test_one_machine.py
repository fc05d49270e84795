"""The compose file and the SkyPilot task: schemas, and what they must agree upon with the rest."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml

from pipeline.config import ConfigError, JobConfig
from tests.deploy import schemas
from tests.deploy.faults import GONE, Fault, assert_told, names
from tests.deploy.files import FOLDER, Deployment, config_of, deployment, one
from tests.deploy.nightly_rules import WANTED

RAY = "compose.services.ray"
COMPOSE_FOLDER = FOLDER / "compose"


def compose_problems(found: Deployment) -> list[str]:
    """The schema and our rules."""
    return [*schemas.compose_problems(found), *_compose(found)]


def _compose(found: Deployment) -> Iterator[str]:
    services = found.compose["services"]
    for name, service in services.items():
        for other in service.get("depends_on", {}):
            if other not in services:
                yield f"compose: {name} waits for {other}, which does not exist"
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            if source.startswith("."):
                if not (COMPOSE_FOLDER / source).exists():
                    yield f"compose: {name} mounts {source}, which does not exist"
            elif source not in found.compose.get("volumes", {}):
                yield f"compose: {name} mounts the volume {source}, which is not declared"
        for variable, value in (service.get("environment") or {}).items():
            if re.search("PASSWORD|SECRET", variable) and not str(value).startswith("${"):
                yield f"compose: {name}: {variable} is written down"
        image = service.get("image", "")
        if image.endswith(":latest") or ":" not in image:
            yield f"compose: {name}: image {image} is any version"
        if isinstance(service.get("depends_on"), dict):
            for other, how in service["depends_on"].items():
                healthy = how["condition"] == "service_healthy"
                if healthy and "healthcheck" not in services.get(other, {}):
                    yield f"compose: {name} waits for the health of {other}, which tells none"
    store = services["ray"].get("environment", {}).get("AWS_ENDPOINT_URL", "")
    host = store.removeprefix("http://").partition(":")[0]
    if host not in services:
        yield f"compose: ray's store is {store}, which is no service"
    (scrape,) = one("monitoring/prometheus.yaml")["scrape_configs"]
    (file,) = scrape["file_sd_configs"][0]["files"]
    for name in ("ray", "prometheus"):
        folders = [mount.split(":")[1] for mount in services[name].get("volumes", [])]
        if not any(file.startswith(folder) for folder in folders):
            yield f"compose: {name} does not share {file}"
    if services["ray"].get("build", {}).get("dockerfile") != "deploy/Dockerfile":
        yield "compose: ray is not built of our Dockerfile"


def test_compose_takes_the_file() -> None:
    assert compose_problems(deployment()) == []


COMPOSE_FAULTS: list[Fault] = [
    ("compose.service", {}, "'service' does not match any"),
    (f"{RAY}.comand", [], "'comand' was unexpected"),
    (f"{RAY}.ports", ["8265:8265"], "'8265:8265' does not match"),
    (f"{RAY}.shm_size", "lots", "'lots' does not match"),
    (f"{RAY}.healthcheck.retries", "20", "'20' is not of type 'integer'"),
    (f"{RAY}.healthcheck.test", GONE, "'test' is a required property"),
    (f"{RAY}.depends_on.bucket.condition", "service_up", "is not valid under any"),
    (f"{RAY}.depends_on.store", {"condition": "service_started"}, "ray waits for store, which"),
    ("compose.services.s3.healthcheck", GONE, "waits for the health of s3, which tells none"),
    ("compose.services.grafana.volumes.0", "./x.yaml:/etc/x.yaml:ro", "./x.yaml, which does not"),
    ("compose.volumes.s3", GONE, "mounts the volume s3, which is not declared"),
    ("compose.services.s3.environment.MINIO_ROOT_PASSWORD", "hunter22", "is written down"),
    ("compose.services.grafana.image", "grafana/grafana", "is any version"),
    (f"{RAY}.environment.AWS_ENDPOINT_URL", "http://minio:9000", "which is no service"),
    ("compose.services.prometheus.volumes.2", "prometheus:/x", "prometheus does not share"),
    (f"{RAY}.build.dockerfile", "Dockerfile", "not built of our Dockerfile"),
]


@pytest.mark.parametrize("fault", COMPOSE_FAULTS, ids=names(COMPOSE_FAULTS))
def test_a_planted_fault_breaks_the_compose_file(fault: Fault) -> None:
    assert_told(compose_problems, fault)


def test_grafana_finds_its_source_and_its_boards() -> None:
    source, boards = one("compose/grafana/source.yaml"), one("compose/grafana/boards.yaml")
    services = one("compose/compose.yaml")["services"]
    (found,) = source["datasources"]
    host, port = found["url"].removeprefix("http://").split(":")
    assert host in services
    assert any(line.endswith(f":{port}") for line in services[host]["ports"])
    folder = boards["providers"][0]["options"]["path"]
    targets = [mount.split(":")[1] for mount in services["grafana"]["volumes"]]
    assert any(target.startswith(f"{folder}/") for target in targets)


def test_the_file_for_gpus_names_a_service_of_the_other() -> None:
    gpu = one("compose/compose.gpu.yaml")
    assert set(gpu["services"]) <= set(one("compose/compose.yaml")["services"])
    (device,) = gpu["services"]["ray"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}


# --- SkyPilot


def ran(script: str, folder: Path) -> list[str]:
    """What the task's script tells `ray`, on the first of two nodes with one GPU each."""
    stub = folder / "ray"
    stub.write_text(f'#!/bin/bash\nprintf "%s\\n" "$@" > {folder}/words\n')
    stub.chmod(0o755)
    environment = {
        "PATH": f"{folder}:/usr/bin:/bin", "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2",
        "SKYPILOT_NUM_NODES": "2", "SKYPILOT_NUM_GPUS_PER_NODE": "1", "BUCKET": "b",
        "MODEL": "facebook/musicgen-small",
    }  # fmt: skip
    subprocess.run(["bash", "-c", script], env=environment, check=True, cwd=folder)
    return (folder / "words").read_text().splitlines()


def sky_config(words: list[str]) -> JobConfig:
    command = words[words.index("--") + 1 :]
    assert command[:2] == ["env", "RAY_ADDRESS=auto"]
    return config_of(command[2:])


def skypilot_problems(found: Deployment) -> list[str]:
    """The schema and our rules."""
    return [*schemas.skypilot_problems(found), *_skypilot(found)]


def _skypilot(found: Deployment) -> Iterator[str]:
    resources = found.skypilot["resources"]
    again = {code for code, verdict in WANTED.items() if verdict == "again"}
    named = set(resources.get("job_recovery", {}).get("recover_on_exit_codes", []))
    if named != again:
        yield f"skypilot: exit codes {sorted(named)} are tried again, not {sorted(again)}"
    if not resources.get("use_spot"):
        yield "skypilot: not on spot machines"
    if found.skypilot.get("envs", {}).get("BUCKET", "x") is not None:
        yield "skypilot: BUCKET has a default, that of somebody else"


def test_skypilot_takes_the_task_and_the_run_gets_every_gpu(tmp_path: Path) -> None:
    from ray.scripts.symmetric_run import symmetric_run

    assert skypilot_problems(deployment()) == []

    words = ran(deployment().skypilot["run"], tmp_path)

    assert words[0] == "symmetric-run"
    own = symmetric_run.make_context("symmetric-run", words[1 : words.index("--")]).params
    assert (own["address"], own["min_nodes"]) == ("10.0.0.1:6385", 2)
    config = sky_config(words)
    assert (config.cluster.replicas, config.cluster.gpus_per_replica) == (2, 1)
    assert config.run.output == "s3://b/music"


SKYPILOT_FAULTS: list[Fault] = [
    ("skypilot.num_node", 2, "'num_node' was unexpected"),
    ("skypilot.num_nodes", 0, "0 is less than the minimum of 1"),
    ("skypilot.run", GONE, "'run' is a required property"),
    ("skypilot.resources.accelerator", "L4:1", "'accelerator' was unexpected"),
    ("skypilot.resources.cpus", "many", "'many' does not match"),
    ("skypilot.resources.job_recovery.recover_on_exit_codes", [1, 999], "999 is greater than"),
    ("skypilot.resources.job_recovery.recover_on_exit_codes", [1, 2], "[1, 2] are tried again"),
    ("skypilot.resources.use_spot", False, "not on spot machines"),
    ("skypilot.envs.BUCKET", "theirs", "BUCKET has a default"),
]


@pytest.mark.parametrize("fault", SKYPILOT_FAULTS, ids=names(SKYPILOT_FAULTS))
def test_a_planted_fault_breaks_the_skypilot_task(fault: Fault) -> None:
    assert_told(skypilot_problems, fault)


def test_a_planted_typo_in_the_tasks_script_is_told(tmp_path: Path) -> None:
    script = deployment().skypilot["run"]
    assert "--part-seconds" in script

    with pytest.raises((click.UsageError, ConfigError)):
        sky_config(ran(script.replace("--part-seconds", "--part-second=x"), tmp_path))


def test_every_yaml_file_is_one(tmp_path: Path) -> None:
    files = sorted(FOLDER.rglob("*.yaml"))
    assert len(files) > 20
    for path in files:
        assert list(yaml.safe_load_all(path.read_text())), path
    broken = tmp_path / "x.yaml"
    broken.write_text("a: b: c\n")
    with pytest.raises(yaml.YAMLError):
        list(yaml.safe_load_all(broken.read_text()))
