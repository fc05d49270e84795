"""A real Prometheus with our configuration scrapes a run: every panel of the dashboard has data,
and the alert on dead letters fires."""

import json
import math
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.clusters import BY_HAND, ROOT, environment, free_ports, job_cluster
from tests.integration.jobs import TINY, ids_and_takes, write_manifest

pytestmark = [
    BY_HAND,
    pytest.mark.long,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not shutil.which("prometheus"),
        reason="tests/install_deploy_tools.sh installs Prometheus",
    ),
]
MONITORING = ROOT / "deploy" / "monitoring"
DISCOVERY = "prom_metrics_service_discovery.json"
N_ROWS = 90


def test_every_panel_has_data_of_a_run_and_the_alert_on_dead_letters_fires(tmp_path: Path) -> None:
    rows = [{"id": f"r{i:02d}", "prompt": f"song {i}", "duration_s": 4.0} for i in range(N_ROWS)]
    rows += [{"id": "broken", "prompt": "x", "duration_s": 4.0, "melody_uri": "none.wav"}]
    manifest = write_manifest(tmp_path / "m.parquet", rows)
    output = f"file://{tmp_path}/out"
    folder = Path(tempfile.mkdtemp(prefix="mg"))

    with job_cluster(6, folder) as address, prometheus(folder, tmp_path) as server:
        running = submit(tmp_path, address, manifest, output)
        wanted = {query: title for title, query in panel_queries()}
        seen: dict[str, list[Any]] = {}
        run_id = ""
        while running.poll() is None or not run_id:
            run_id = run_id or known_run(server)
            for query in wanted if run_id else ():
                if query not in seen and (found := asked(server, filled(query, run_id))):
                    seen[query] = found
            time.sleep(0.5)
        firing = {alert["labels"]["alertname"]: alert for alert in alerts(server)}

    assert running.returncode == 3, (tmp_path / "submit.log").read_text()
    assert len(ids_and_takes(output)) == N_ROWS
    assert {wanted[query] for query in wanted if query not in seen} == set()
    letters = firing["MusicgenDeadLetters"]
    assert letters["state"] == "firing"
    assert letters["labels"]["run_id"] == run_id
    assert "1 dead letters" in letters["annotations"]["summary"]
    assert "MusicgenManyDeadLetters" not in firing
    assert "MusicgenStalled" not in firing


def panel_queries() -> Iterator[tuple[str, str]]:
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            yield f"{panel['title']}: {target['legendFormat']}", target["expr"]


def filled(query: str, run_id: str) -> str:
    """As Grafana fills it."""
    found = query.replace("$__rate_interval", "15s").replace("$run", run_id)
    assert "$" not in found, found
    return found


@contextmanager
def prometheus(ray_folder: Path, folder: Path) -> Iterator[str]:
    """A server with our configuration, but for the folder of Ray and the pace; its address."""
    text = (MONITORING / "prometheus.yaml").read_text()
    config = yaml.safe_load(text.replace("/tmp/ray/", f"{ray_folder}/"))
    assert config["scrape_configs"][0]["file_sd_configs"][0]["files"] == [
        f"{ray_folder}/{DISCOVERY}"
    ]
    config["scrape_configs"][0]["file_sd_configs"][0]["refresh_interval"] = "1s"
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    shutil.copy(MONITORING / "alerts.yaml", folder)
    (port,) = free_ports(1)
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                "prometheus", f"--config.file={folder}/prometheus.yaml",
                f"--storage.tsdb.path={folder}/data", f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log, stderr=log,
        )  # fmt: skip
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=30)


def get(server: str, path: str, **query: str) -> Any:
    url = f"{server}/api/v1/{path}?{urllib.parse.urlencode(query)}"
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]
    except ConnectionError:
        return {}
    except urllib.error.HTTPError as error:
        raise AssertionError(f"{query}: {error.read().decode()}") from error
    except urllib.error.URLError:
        return {}


def asked(server: str, query: str) -> list[float]:
    """The finite values that a query returns now."""
    found = get(server, "query", query=query).get("result", [])
    values = [float(each["value"][1]) for each in found]
    return [value for value in values if math.isfinite(value)]


def known_run(server: str) -> str:
    """The id by which the variable `run` of the dashboard finds the run."""
    (variable,) = [
        each
        for each in json.loads((MONITORING / "dashboard.json").read_text())["templating"]["list"]
        if each["name"] == "run"
    ]
    found = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"])
    assert found
    values: list[str] = get(server, f"label/{found[2]}/values", **{"match[]": found[1]}) or []
    return values[-1] if values else ""


def alerts(server: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = get(server, "alerts").get("alerts", [])
    return found


def submit(folder: Path, address: str, manifest: Path, output: str) -> subprocess.Popen[bytes]:
    flags = TINY | {"manifest": manifest, "output": output, "drain_s": 1}
    words = [f"--{name.replace('_', '-')}={value}" for name, value in flags.items()]
    with (folder / "submit.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "pipeline.cli", "submit", "--address", address, *words],
            env=environment(folder), stdout=log, stderr=log,
        )  # fmt: skip
