"""What a run would do, before it does it: counts, rows that would fail, and a guess at the time.

    python examples/plan_job.py

It loads no model and writes nothing but the manifest, into a temporary folder.
"""

import json
import logging
import tempfile
from pathlib import Path

from manifests.build import build
from pipeline import JobConfig, PlannedRun, plan

ROWS = [
    {"id": "calm", "prompt": "C major, slow bell melody", "duration_s": 5.0, "takes": 3},
    {"id": "lost", "prompt": "the same tune", "melody_uri": "nowhere.flac"},
]

log = logging.getLogger("plan_job")


def main() -> PlannedRun:
    """Plans a manifest of one good and one bad row."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "prompts.jsonl"
        source.write_text("\n".join(json.dumps(row) for row in ROWS))
        manifest = f"{folder}/prompts.parquet"
        build(str(source), manifest)
        planned = plan(JobConfig.of(manifest=manifest, output=f"{folder}/music", model="tiny"))
    log.info("%d clips, %.0f s", planned.plan.pending, planned.plan.pending_audio_s)
    for letter in planned.plan.letters:
        log.info("would fail: %s", letter.message)
    return planned


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
