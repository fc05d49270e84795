"""What reaches the replicas of a manifest that is nearly done: blocks of the intended size."""

import collections
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from manifests.reader import Manifest
from pipeline import ledger
from pipeline.config_file import load_config
from pipeline.ledger.id_set import NO_IDS, DoneSet, pack_ids
from pipeline.planning.clips import PlannedClip
from pipeline.planning.expand import Expander, PlanSpec, Selection
from pipeline.planning.model_limits import inspect_model, limits_of
from pipeline.planning.scan import scan
from pipeline.prepare.actor import Prepare
from pipeline.prepare.messages import PrepareSettings
from pipeline.replica.messages import ReplicaSettings
from pipeline.runtime.ray_dataset import build_dataset
from pipeline.runtime.runtime import Work
from tests.integration.jobs import TINY, write_manifest

N_ROWS, N_PENDING, BLOCK_ROWS = 9_600, 96, 8


class CountingReplica:
    """Takes the place of a replica: reports the size of each block and how many calls overlap."""

    NEIGHBOUR_S = 20.0  # that Ray has, on a busy machine too, to bring a second call

    def __init__(self, settings: ReplicaSettings) -> None:
        self.changed, self.inside, self.most = threading.Condition(), 0, 0

    def __call__(self, table: pa.Table) -> pa.Table:
        with self.changed:
            self.inside += 1
            self.most = max(self.most, self.inside)
            self.changed.notify_all()
            self.changed.wait_for(lambda: self.most >= 2, timeout=self.NEIGHBOUR_S)
            self.inside -= 1
            return pa.table({"n_rows": [table.num_rows], "most": [self.most]})


def expand_all(spec: PlanSpec) -> list[PlannedClip]:
    expander, nothing = Expander(spec), Selection(DoneSet(NO_IDS, NO_IDS))
    found: list[PlannedClip] = []
    for row_group in spec.manifest.row_groups:
        for first_row, batch in spec.manifest.read_row_group(row_group):
            for number, raw in enumerate(spec.manifest.raw_rows(batch), start=first_row):
                found += [
                    item
                    for _, item in expander.expand(raw, number, 0, nothing)
                    if isinstance(item, PlannedClip)
                ]
    return found


@pytest.mark.long
@pytest.mark.usefixtures("ray_cluster")
def test_a_manifest_that_is_99_percent_done(tmp_path: Path) -> None:
    rows = [{"id": f"r{i}", "prompt": f"song {i}", "duration_s": 1.0} for i in range(N_ROWS)]
    path = write_manifest(tmp_path / "m.parquet", rows)
    flags = TINY | {"block_rows": BLOCK_ROWS, "manifest": str(path), "output": str(tmp_path)}
    config = load_config(None, flags)
    info = inspect_model(config)
    spec = PlanSpec(Manifest.open(str(path)), config.generation, limits_of(info))
    every_hundredth = N_ROWS // N_PENDING
    done = [c.spec.clip_id for n, c in enumerate(expand_all(spec)) if n % every_hundredth]
    known = DoneSet(np.unique(pack_ids(done)), NO_IDS)

    plan = scan(spec, Selection(known))
    assert (plan.outcomes["done"], plan.pending) == (N_ROWS - N_PENDING, N_PENDING)
    work = Work(
        plan.row_groups,
        PrepareSettings(spec, info, plan.repeats, retry=False),
        ReplicaSettings(config, info, "run", 1, "", ledger.CLIP_FIELDS),
        known,
        CountingReplica,
        Prepare,
    )
    dataset = build_dataset(config, work)
    calls: list[dict[str, Any]] = dataset.take_all()

    sizes = collections.Counter(call["n_rows"] for call in calls)
    assert sizes == {BLOCK_ROWS: N_PENDING // BLOCK_ROWS}
    # Calls run side by side in one replica, which is what keeps its slots full across tasks.
    assert max(call["most"] for call in calls) >= 2
