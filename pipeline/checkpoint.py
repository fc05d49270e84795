"""What the job must know of a checkpoint before any of it is loaded; free of torch."""

from manifests.check import ModelLimits as CheckLimits
from musicgen.files import ModelInfo, describe
from pipeline.config import JobConfig
from pipeline.plan import ModelLimits


def inspect_model(config: JobConfig) -> ModelInfo:
    """The checkpoint that the config names. ModelNotFoundError says what is missing and where."""
    return describe(config.model, revision=config.revision)


def limits_of(info: ModelInfo) -> ModelLimits:
    """The part of a model that decides which rows it can make."""
    roles = {"continuation"} | ({"melody"} if info.kind == "melody" else set())
    return ModelLimits(info.name, info.weights_hash, info.max_duration_s, frozenset(roles))


def check_limits(model: str) -> CheckLimits:
    """The same for `manifest check`."""
    limits = limits_of(describe(model))
    return CheckLimits(limits.name, limits.roles, limits.max_duration_s)
