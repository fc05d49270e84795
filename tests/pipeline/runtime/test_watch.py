"""The driver's part of a job that ends by an error."""

import sys
import threading
import time
from collections.abc import Generator
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline import job
from pipeline.ledger.lease import LeaseLostError
from pipeline.ledger.names import lease_path
from pipeline.replica.messages import STATUS_SCHEMA
from pipeline.runtime.local import LocalRuntime
from pipeline.runtime.runtime import Work
from pipeline.storage import open_storage
from tests.integration.jobs import run_here, wait_until, write_manifest


def test_what_fails_while_a_failed_run_is_left_is_not_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray refuses to end its actors when the process of the run has left it: no traceback stands
    below the sentence that says why the run ended."""
    output = f"file://{tmp_path}/out"
    left, printed = threading.Event(), list[object]()

    class LeftTooLate(LocalRuntime):
        def statuses(self, work: Work) -> Generator[pa.Table]:
            try:
                open_storage(output).put(lease_path(99), b"{}")  # another run has taken over
                while True:
                    time.sleep(0.05)
                    yield STATUS_SCHEMA.empty_table()
            finally:
                left.set()
                raise RuntimeError("Ray has not been started yet")

    monkeypatch.setattr(job, "open_runtime", LeftTooLate)
    monkeypatch.setattr(sys, "unraisablehook", printed.append)
    monkeypatch.setattr(threading, "excepthook", printed.append)
    manifest = write_manifest(tmp_path / "m.parquet", [{"id": "a", "prompt": "song"}])

    with pytest.raises(LeaseLostError):
        run_here(manifest, output, lease_ttl_s=1.0)

    assert left.wait(timeout=30)
    wait_until(lambda: all(thread.name != "drive" for thread in threading.enumerate()))
    assert printed == []
