"""The metrics of a replica: names, units and kinds. Free of Ray.

The threads of a replica keep plain counters. `ray_exporter` reads them as samples once a second, so
metrics take no time in the decode loop.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

PREFIX = "musicgen_batch_"


@dataclass(frozen=True)
class Metric:
    """A number of a replica. Ray exports it to Prometheus as `ray_musicgen_batch_<name>`, and a
    counter as `ray_musicgen_batch_<name>_total`."""

    name: str
    kind: Literal["counter", "gauge"]
    description: str
    tags: tuple[str, ...] = ()  # beside run_id and replica


METRICS = (
    Metric("clips", "counter", "Clips committed."),
    Metric("audio_seconds", "counter", "Seconds of audio committed."),
    Metric("audio_bytes", "counter", "Bytes of encoded audio committed."),
    Metric("parts", "counter", "Parts published."),
    Metric(
        "failures",
        "counter",
        "Dead letters committed.",
        ("stage", "error_class"),
    ),
    Metric("steps", "counter", "Steps of the decode loop."),
    Metric(
        "work_seconds",
        "counter",
        "Seconds of work by kind: model (the decode loop), conditioning, decode, encode, commit.",
        ("kind",),
    ),
    Metric("slots", "gauge", "Clips that fit into the engine at once."),
    Metric("slots_busy", "gauge", "Clips in the engine."),
    Metric("clips_waiting", "gauge", "Rows accepted and not yet in the engine."),
    Metric("clips_uncommitted", "gauge", "Rows that left the engine and are not yet durable."),
)
BY_NAME = {metric.name: metric for metric in METRICS}


@dataclass(frozen=True)
class Sample:
    """The value of one time series now; for a counter, the sum since the replica started."""

    name: str
    value: float
    tags: tuple[tuple[str, str], ...] = ()


def failure_samples(counts: Mapping[tuple[str, str], int]) -> list[Sample]:
    """Dead letters as samples.

    Args:
        counts: How many there are, by stage and error class; another thread may add to them.
    """
    return [
        Sample("failures", count, (("stage", stage), ("error_class", error_class)))
        for (stage, error_class), count in list(counts.items())
    ]


class Increments:
    """Turns counters since the start into increments since the last call."""

    def __init__(self) -> None:
        self._reported: dict[Sample, float] = {}

    def since_last(self, samples: list[Sample]) -> Iterator[Sample]:
        """Gauges as they are; for counters the increment, where it is not 0."""
        for sample in samples:
            if BY_NAME[sample.name].kind == "gauge":
                yield sample
                continue
            series = Sample(sample.name, 0.0, sample.tags)
            growth = sample.value - self._reported.get(series, 0.0)
            if growth > 0:
                self._reported[series] = sample.value
                yield Sample(sample.name, growth, sample.tags)
