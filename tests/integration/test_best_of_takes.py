"""Takes that are judged, on a real Ray cluster with two replicas."""

from pathlib import Path

import pytest

from pipeline.ledger.scores import read_scores
from pipeline.storage import open_storage
from tests.integration.jobs import clips, problems, run_here, run_in_process
from tests.pipeline.replica.takes import BEST, N_ROWS, TAKES, Everything, kept, make_manifest


@pytest.mark.long
def test_two_replicas_on_ray_keep_the_clips_that_one_keeps(
    ray_cluster: None, tmp_path: Path
) -> None:
    manifest, everything = make_manifest(tmp_path), f"file://{tmp_path}/all"
    run_here(manifest, everything, **{k: v for k, v in BEST.items() if k != "keep_best"})
    output = f"file://{tmp_path}/out"

    summary = run_in_process(manifest, output, **BEST, replicas=2, block_rows=1)

    assert kept(output) == Everything(manifest, clips(everything)).best()
    assert (summary.clips, summary.tally.aside) == (N_ROWS, N_ROWS * (TAKES - 1))
    assert read_scores(open_storage(output)).num_rows == 2 * N_ROWS * TAKES
    assert problems(output) == []
    assert run_in_process(manifest, output, **BEST).plan.pending == 0
