"""Exports the metrics of a replica to Prometheus, through the metrics port of its Ray node."""

import logging
import sys
import threading
from collections.abc import Callable

from pipeline.telemetry.metrics import METRICS, PREFIX, Increments, Sample

log = logging.getLogger(__name__)

INTERVAL_S = 1.0


def export(
    read: Callable[[], list[Sample]], *, run_id: str, replica: str, closed: threading.Event
) -> None:
    """Exports the samples once a second from a thread of its own, until `closed`. Outside of Ray
    nothing is exported."""
    if "ray" not in sys.modules:  # importing it takes seconds
        return
    import ray

    if not ray.is_initialized():
        return
    thread = threading.Thread(
        target=_export_until_closed,
        args=(read, run_id, replica, closed),
        name="metrics",
        daemon=True,
    )
    thread.start()


def _export_until_closed(
    read: Callable[[], list[Sample]], run_id: str, replica: str, closed: threading.Event
) -> None:
    from ray.util.metrics import Counter, Gauge

    instruments = {}
    for metric in METRICS:
        kind = Counter if metric.kind == "counter" else Gauge
        keys = ("run_id", "replica", *metric.tags)
        made = kind(PREFIX + metric.name, metric.description, tag_keys=keys)
        instruments[metric.name] = made.set_default_tags({"run_id": run_id, "replica": replica})
    increments = Increments()
    while True:
        last = closed.wait(INTERVAL_S)
        try:
            for sample in increments.since_last(read()):
                instrument, tags = instruments[sample.name], dict(sample.tags)
                if isinstance(instrument, Counter):
                    instrument.inc(sample.value, tags=tags)
                else:
                    instrument.set(sample.value, tags=tags)
        except Exception:  # a fault in the metrics must not end the job
            log.warning("replica=%s exports no more metrics", replica, exc_info=True)
            return
        if last:
            return
