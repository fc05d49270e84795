"""A whole job from Python: a manifest becomes a dataset, with its report.

    python examples/run_job.py out/example-job

It does what `musicgen-batch run` does. Run it again, and it makes nothing; add rows to the
manifest, and it makes those.
"""

import logging
import sys
from pathlib import Path

from manifests.build import build
from pipeline import JobConfig, RunSummary, run

EXAMPLES = Path(__file__).parents[1] / "manifests" / "examples"

log = logging.getLogger("run_job")


def main(output: str) -> RunSummary:
    """Makes the clips of `manifests/examples/text.csv`."""
    Path(output).mkdir(parents=True, exist_ok=True)
    manifest = f"{output}/prompts.parquet"
    build(str(EXAMPLES / "text.csv"), manifest)
    config = JobConfig.of(manifest=manifest, output=f"{output}/music", model="tiny", replicas=2)
    summary = run(config, say=log.info, progress=sys.stderr)
    log.info("%d clips, %.1f s of audio: %s", summary.clips, summary.audio_s, summary.clips_uri)
    log.info("look and listen: %s", summary.report_uri)
    return summary


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "out/example-job").exit_code)
