"""The GPU actor as Ray sees it: prepared rows in, statuses out once the rows are durable.

Ray runs several calls of one actor side by side; they only hand their rows to the stations and
wait. What ends a replica is data too (a status row), so that the driver can say what happened in
its own words instead of a traceback through Ray.
"""

import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipeline.settings import ReplicaSettings
from pipeline.timing import TIMES_TYPE

if TYPE_CHECKING:
    from pipeline.stations import Stations

STATUS_SCHEMA = pa.schema(
    [
        ("status", pa.string()),  # clip, letter, known (committed by an earlier attempt), or fatal
        ("clip_id", pa.string()),
        ("audio_s", pa.float64()),
        ("replica", pa.string()),
        ("times", TIMES_TYPE),  # of this replica so far
        ("error_class", pa.string()),  # of fatal
        ("error", pa.string()),
    ]
)


class Replica:
    """Ray actor with one model.

    Args:
        settings: The job, the model and the lease.
    """

    def __init__(self, settings: ReplicaSettings) -> None:
        self.stations: Stations | None = None
        self.broken: Exception | None = None
        try:
            from pipeline import exporter, stations  # torch and transformers: seconds

            self.stations = stations.Stations(settings)
            exporter.export(
                self.stations.samples,
                run_id=settings.run_id,
                replica=self.stations.name,
                closed=self.stations.closed,
            )
        except Exception as error:  # told by the first call
            if "CUDA error" in str(error):
                os._exit(1)  # Ray starts a new actor; a clean exit would leave a zombie slot
            self.broken = error

    def __call__(self, table: pa.Table) -> pa.Table:
        try:
            if self.stations is None:
                raise self.broken or RuntimeError("the replica has no model")
            call = self.stations.accept(table.to_pylist())
            call.done.result()
        except Exception as error:  # ends the job: see `job._fatal`
            return _statuses([fatal_status(error)])
        signed = {
            "replica": self.stations.name,
            "times": asdict(self.stations.times),
        }
        return _statuses([status | signed for status in call.statuses])


def fatal_status(error: Exception) -> dict[str, Any]:
    """The status row that ends the job."""
    return {"status": "fatal", "error_class": type(error).__name__, "error": str(error)}


def _statuses(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=STATUS_SCHEMA)
