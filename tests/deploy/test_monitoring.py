"""Alerts and dashboard: promtool checks the rules, fires each on a made-up bad run and none on a
good one; what the dashboard asks for are metrics that replicas export.

`tests/integration/test_prometheus.py` asks a real Prometheus that scrapes a run.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.telemetry.metrics import METRICS, PREFIX
from tests.deploy import schemas
from tests.deploy.alert_cases import BAD, WELL, case
from tests.deploy.faults import Fault, assert_told, names
from tests.deploy.files import MONITORING, Deployment, deployment

ALERTS = MONITORING / "alerts.yaml"
EXPORTED = {
    f"ray_{PREFIX}{each.name}{'_total' if each.kind == 'counter' else ''}": each for each in METRICS
}
OF_OTHERS = {
    *("up", "kube_job_status_failed", "kube_cronjob_status_last_successful_time"),
}
needs_promtool = pytest.mark.skipif(
    not shutil.which("promtool"), reason="tests/install_deploy_tools.sh installs promtool"
)


def promtool(*words: str) -> tuple[int, str]:
    done = subprocess.run(["promtool", *words], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def alerts(found: Deployment) -> dict[str, dict[str, Any]]:
    groups = found.alerts["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def metrics_in(expression: str) -> set[str]:
    """The metrics of an expression: words that begin a selector or stand alone."""
    return set(re.findall(r"\b(?:ray_\w+|kube_\w+|up)\b(?!\()", expression))


def monitoring_problems(found: Deployment) -> list[str]:
    """What the files must agree upon with the exporter and with each other."""
    return [*schemas.dashboard_problems(found), *_agreements(found)]


def _agreements(found: Deployment) -> Iterator[str]:
    if found.prometheus_rule["spec"] != found.alerts:
        yield "prometheus-rule.yaml does not hold the groups of alerts.yaml"
    shown: set[str] = set()
    for panel in found.dashboard["panels"]:
        for target in panel["targets"]:
            shown |= metrics_in(target["expr"])
            for selector in re.findall(r"ray_\w+(\{[^}]*\})?", target["expr"]):
                if 'run_id="$run"' not in selector:
                    yield f"dashboard: {panel['title']} shows all runs at once"
    for name in sorted(shown - set(EXPORTED)):
        yield f"dashboard: nobody exports {name}"
    for name in sorted(set(EXPORTED) - shown):
        yield f"dashboard: {name} is on no panel"
    for name, rule in alerts(found).items():
        unknown = metrics_in(rule["expr"]) - set(EXPORTED) - OF_OTHERS
        if unknown:
            yield f"{name}: nobody exports {', '.join(sorted(unknown))}"
        if rule["labels"].get("severity") not in ("warning", "critical"):
            yield f"{name}: its severity is neither warning nor critical"
        if not {"summary", "description"} <= set(rule["annotations"]):
            yield f"{name}: says not what is wrong and what to do"
    places = [panel["gridPos"] for panel in found.dashboard["panels"]]
    for index, one in enumerate(places):
        for other in places[:index]:
            if _overlap(one, other):
                yield f"dashboard: panels lie upon each other at {one['x']}, {one['y']}"
    ids = [panel["id"] for panel in found.dashboard["panels"]]
    if len(ids) != len(set(ids)):
        yield "dashboard: two panels have one id"


def _overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    return all(
        one[start] < other[start] + other[size] and other[start] < one[start] + one[size]
        for start, size in (("x", "w"), ("y", "h"))
    )


def test_alerts_and_dashboard_agree_with_what_is_exported() -> None:
    assert monitoring_problems(deployment()) == []
    assert set(alerts(deployment())) == set(BAD)


FAULTS: list[Fault] = [
    ("dashboard.panels.0.targets.0.exprr", "x", "'exprr' was unexpected"),
    ("dashboard.panels.0.typ", "stat", "'typ' was unexpected"),
    ("dashboard.panels.0.type", "graph", "'graph' is not one of"),
    ("dashboard.panels.0.gridPos.w", 48, "48 is greater than the maximum"),
    ("dashboard.panels.1.gridPos.x", 0, "panels lie upon each other at"),
    ("dashboard.panels.1.id", 1, "two panels have one id"),
    (
        "dashboard.panels.0.targets.0.expr",
        "sum(ray_musicgen_batch_clips_total)",
        "all runs at once",
    ),
    (
        "dashboard.panels.0.targets.0.expr",
        'ray_musicgen_clips{run_id="$run"}',
        "nobody exports ray",
    ),
    ("dashboard.panels.3.targets.0.expr", "1", "ray_musicgen_batch_audio_bytes_total is on no pan"),
    ("alerts.groups.0.rules.0.expr", "ray_musicgen_stalls > 0", "nobody exports ray_musicgen_stal"),
    ("alerts.groups.0.rules.0.labels", {}, "its severity is neither"),
    ("alerts.groups.0.rules.0.annotations", {"summary": "x"}, "says not what is wrong"),
    ("prometheus_rule.spec.groups.0.rules.0.for", "1h", "does not hold the groups of alerts"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=names(FAULTS))
def test_a_planted_fault_breaks_an_agreement(fault: Fault) -> None:
    assert_told(monitoring_problems, fault)


@needs_promtool
class TestRules:
    def test_promtool_passes_rules_and_configuration(self) -> None:
        code, said = promtool("check", "rules", "--lint=all", "--lint-fatal", str(ALERTS))
        assert code == 0, said
        code, said = promtool("check", "config", str(MONITORING / "prometheus.yaml"))
        assert code == 0, said

    @pytest.mark.parametrize(
        ("right", "wrong"),
        [
            ("sum by (run_id)", "sum by (run_id"),
            ("for: 10m", "for: ten minutes"),
            ("expr: |", "exp: |"),
            ("- alert: MusicgenStalled", "- alert: MusicgenStarved"),
            ("{{ $labels.run_id }}", "{{ $labels.run_id"),
        ],
    )
    def test_a_planted_fault_is_told_by_promtool(
        self, right: str, wrong: str, tmp_path: Path
    ) -> None:
        text = ALERTS.read_text()
        assert right in text
        broken = tmp_path / "alerts.yaml"
        text = text.replace(right, wrong, 1)
        if "Starved" in wrong:  # the same rule twice
            rules = yaml.safe_load(ALERTS.read_text())
            rules["groups"][0]["rules"].append(rules["groups"][0]["rules"][0])
            text = yaml.safe_dump(rules)
        broken.write_text(text)

        code, said = promtool("check", "rules", "--lint=all", "--lint-fatal", str(broken))

        assert code != 0, said

    def test_a_planted_fault_in_the_configuration_is_told(self, tmp_path: Path) -> None:
        shutil.copy(ALERTS, tmp_path)
        text = (MONITORING / "prometheus.yaml").read_text()
        for right, wrong in (("scrape_configs", "scrape_config"), ("15s", "15"), ("alerts.", "x.")):
            (tmp_path / "prometheus.yaml").write_text(text.replace(right, wrong))
            code, said = promtool("check", "config", str(tmp_path / "prometheus.yaml"))
            assert code != 0, said

    def test_an_alert_fires_on_a_bad_run_and_not_before(self, tmp_path: Path) -> None:
        cases = [
            case(given, [nothing(alert, fires_min), nothing(alert, quiet_min)])
            for alert, (given, fires_min, quiet_min) in BAD.items()
        ]

        assert firing(cases, tmp_path) == {
            (alert, f"{fires_min}m") for alert, (_, fires_min, _) in BAD.items()
        }

    def test_no_alert_fires_on_a_good_run(self, tmp_path: Path) -> None:
        expected = [nothing(alert, minute) for alert in BAD for minute in (5, 30, 80)]

        assert firing([case(WELL, expected)], tmp_path) == set()


def nothing(alert: str, minute: int) -> dict[str, Any]:
    return {"eval_time": f"{minute}m", "alertname": alert, "exp_alerts": []}


def firing(cases: list[dict[str, Any]], folder: Path) -> set[tuple[str, str]]:
    """Alerts and times of which promtool refutes that nothing fires."""
    shutil.copy(ALERTS, folder)
    tests = folder / "tests.yaml"
    tests.write_text(json.dumps({"rule_files": ["alerts.yaml"], "tests": cases}))
    code, said = promtool("test", "rules", str(tests))
    found = set(re.findall(r"alertname: (\w+), time: (\w+)", said))
    assert bool(found) == (code != 0), said
    return found
