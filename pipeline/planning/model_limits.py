"""What the job must know of a checkpoint before any of it is loaded; free of torch."""

from importlib.util import find_spec

from manifests.check import ModelLimits as CheckLimits
from musicgen.checkpoints.describe import ModelInfo, describe
from musicgen.config import ModelSource
from pipeline.config import JobConfig
from pipeline.planning.expand import ModelLimits


def inspect_model(config: JobConfig) -> ModelInfo:
    """The checkpoint that the config names. ModelNotFoundError says what is missing and where."""
    return describe(
        ModelSource(
            config.model, config.revision, config.text_encoder, config.codec, config.style_encoder
        )
    )


def limits_of(info: ModelInfo, separation: str = "none") -> ModelLimits:
    """The part of a model that decides which rows it can make, and from what they are made.

    Args:
        info: The checkpoint.
        separation: `auto` or `none`, as in the config.
    """
    roles = {"continuation"} | ({info.kind} & {"melody", "style"})
    demucs = separation == "auto" and find_spec("demucs") is not None
    return ModelLimits(
        info.name, info.weights_hash, frozenset(roles), "htdemucs" if demucs else None
    )


def check_limits(model: str) -> CheckLimits:
    """The same for `manifest check`."""
    limits = limits_of(describe(model))
    return CheckLimits(limits.name, limits.roles)
