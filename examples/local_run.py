"""A job in this process, without Ray: for one machine, for trying prompts and for notebooks.

    python examples/local_run.py out/example-local

The dataset is the same as a Ray cluster would make: clip ids, bytes and columns.
"""

import logging
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import JobConfig, RunSummary, run

PROMPTS = ["A minor, slow flute melody", "G major, fast pluck tune with drums"]

log = logging.getLogger("local_run")


def main(output: str) -> RunSummary:
    """Makes one clip of each prompt and reads the dataset back."""
    Path(output).mkdir(parents=True, exist_ok=True)
    manifest = f"{output}/prompts.parquet"
    rows = [{"id": f"clip{i}", "prompt": text, "duration_s": 3.0} for i, text in enumerate(PROMPTS)]
    pq.write_table(pa.Table.from_pylist(rows), manifest)
    config = JobConfig.of(
        manifest=manifest, output=f"{output}/music", model="tiny", runtime="local", slots=2
    )
    summary = run(config)
    clips = pq.read_table(f"{output}/music/clips")
    for clip in clips.select(["id", "prompt", "audio_path", "loudness_lufs"]).to_pylist():
        log.info("%(id)s: %(audio_path)s, %(loudness_lufs).1f LUFS, %(prompt)s", clip)
    log.info("ready after %.1f s", summary.startup_s)
    return summary


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "out/example-local").exit_code)
