"""What the job must know of a checkpoint before any of it is loaded; free of torch."""

from functools import partial
from importlib.util import find_spec

from manifests.check import CheckedModel
from musicgen.checkpoints.describe import ModelInfo, describe
from pipeline.audio.marks.settings import MarksSettings
from pipeline.config import JobConfig
from pipeline.planning.audio_limits import check_audio
from pipeline.planning.expand import ModelLimits

NO_MARKS = MarksSettings()


def inspect_model(config: JobConfig) -> ModelInfo:
    """The checkpoint that the config names. ModelNotFoundError says what is missing and where."""
    return describe(config.model.source)


def limits_of(
    info: ModelInfo, separation: str = "none", marks: MarksSettings = NO_MARKS
) -> ModelLimits:
    """The part of a model that decides which rows it can make, and from what they are made.

    Args:
        info: The checkpoint.
        separation: `auto` or `none`, as in the config.
        marks: As in the config.
    """
    roles = {"continuation"} | ({info.kind} & {"melody", "style"})
    demucs = separation == "auto" and find_spec("demucs") is not None
    return ModelLimits(
        info.name,
        info.weights_hash,
        frozenset(roles),
        "htdemucs" if demucs else None,
        marks.watermark_identity,
    )


def checked_model(info: ModelInfo) -> CheckedModel:
    """The same for `manifest check`."""
    limits = limits_of(info)
    return CheckedModel(limits.name, limits.roles, partial(check_audio, info))
