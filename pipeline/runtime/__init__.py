"""Where a job runs: on a Ray cluster or in threads of this process; and how it ends early."""

from pipeline.config import JobConfig
from pipeline.runtime.runtime import Runtime


def open_runtime(config: JobConfig) -> Runtime:
    """The runtime that the config names. Only `ray` imports Ray."""
    if config.run.runtime == "local":
        from pipeline.runtime.local import LocalRuntime

        return LocalRuntime(config)
    from pipeline.runtime.ray_dataset import RayRuntime

    return RayRuntime(config)
