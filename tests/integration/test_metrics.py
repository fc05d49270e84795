"""The metrics reach the port that Prometheus scrapes."""

import re
import threading
import time
import urllib.request

import pytest
import ray

from pipeline.telemetry.metrics import METRICS, Sample
from pipeline.telemetry.ray_exporter import export


@ray.remote(num_cpus=0)
class Telling:
    """An actor that exports like a replica, with numbers of its own."""

    def __init__(self, run_id: str, clips: int) -> None:
        self.run_id = run_id
        self.clips = clips
        self.closed = threading.Event()

    def start(self) -> None:
        export(self.samples, run_id=self.run_id, replica="aaaaaa", closed=self.closed)

    def samples(self) -> list[Sample]:
        self.clips += 1
        tags = {"failures": (("stage", "prepare"), ("error_class", "BadReferenceError"))}
        tags |= {"work_seconds": (("kind", "model"),)}
        return [Sample(metric.name, self.clips, tags.get(metric.name, ())) for metric in METRICS]

    def stop(self) -> int:
        self.closed.set()
        return self.clips


@pytest.mark.usefixtures("ray_cluster")
def test_every_number_reaches_the_port_of_its_node() -> None:
    actor, other = Telling.remote("run-1", 0), Telling.remote("run-2", 1_000_000)
    ray.get([actor.start.remote(), other.start.remote()])
    expected = {
        f"ray_musicgen_batch_{metric.name}{'_total' if metric.kind == 'counter' else ''}"
        for metric in METRICS
    }

    series: dict[str, str] = {}
    others: dict[str, str] = {}
    deadline = time.monotonic() + 30
    while expected - (series.keys() & others.keys()) and time.monotonic() < deadline:
        time.sleep(0.5)
        series, others = scrape("run-1"), scrape("run-2")
    told, _ = ray.get([actor.stop.remote(), other.stop.remote()])

    assert expected <= series.keys()
    assert expected <= others.keys()
    assert all('replica="aaaaaa"' in series[name] for name in expected)
    failures = series["ray_musicgen_batch_failures_total"]
    assert 'error_class="BadReferenceError"' in failures
    assert 'stage="prepare"' in failures
    value = float(series["ray_musicgen_batch_clips_total"].rpartition(" ")[2])
    assert 1 <= value <= told


def scrape(run_id: str) -> dict[str, str]:
    """One run's series by name, as the node's metrics port says them.

    The port says those of every run on the node, for a while after its end too.
    """
    (node,) = ray.nodes()
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(address, timeout=5) as answer:
        text = answer.read().decode()
    lines = re.findall(r"^ray_musicgen_batch_.*$", text, re.MULTILINE)
    return {line.partition("{")[0]: line for line in lines if f'run_id="{run_id}"' in line}
