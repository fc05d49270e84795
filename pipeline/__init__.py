"""The job: a manifest of prompts becomes a dataset of music, on Ray or in this process.

The Python API is here; importing it loads neither torch nor Ray:

    from pipeline import JobConfig, run

    summary = run(JobConfig.of(manifest="prompts.parquet", output="out/first", model="tiny"))
    print(summary.clips, "clips in", summary.clips_uri)

`run` does what `musicgen-batch run` does, `plan` what `musicgen-batch plan` does, and
`build_processor` makes a stage of a Ray Data pipeline. See `examples/`.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.config import JobConfig
    from pipeline.job import PlannedRun, plan, run
    from pipeline.processor import Processor, build_processor
    from pipeline.run_record import RunSummary

__all__ = [
    "JobConfig",
    "PlannedRun",
    "Processor",
    "RunSummary",
    "build_processor",
    "plan",
    "run",
]

_HOMES = {
    "JobConfig": "pipeline.config",
    "PlannedRun": "pipeline.job",
    "Processor": "pipeline.processor",
    "RunSummary": "pipeline.run_record",
    "build_processor": "pipeline.processor",
    "plan": "pipeline.job",
    "run": "pipeline.job",
}


def __getattr__(name: str) -> object:
    """Imports what is asked for when it is asked for."""
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
