"""What the job must know of a checkpoint before any of it is loaded; free of torch."""

from functools import partial
from importlib.util import find_spec

from manifests.check import ModelLimits as CheckLimits
from manifests.row_errors import no_room_after
from manifests.schema import EffectiveParams
from musicgen.checkpoints.describe import ModelInfo, describe
from musicgen.config import n_frames
from pipeline.config import JobConfig
from pipeline.planning.expand import ModelLimits


def inspect_model(config: JobConfig) -> ModelInfo:
    """The checkpoint that the config names. ModelNotFoundError says what is missing and where."""
    return describe(
        config.model,
        revision=config.revision,
        text_encoder=config.text_encoder,
        codec=config.codec,
        style_encoder=config.style_encoder,
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


def check_limits(info: ModelInfo) -> CheckLimits:
    """The same for `manifest check`."""
    limits = limits_of(info)
    return CheckLimits(limits.name, limits.roles, partial(check_room, info))


def check_room(info: ModelInfo, n_samples: int, rate_hz: int, params: EffectiveParams) -> None:
    """Raises UnsuitableRowError where a continuation leaves no frame of its clip to be made.

    Args:
        info: The checkpoint.
        n_samples: Length of the continuation at its own rate.
        rate_hz: Its rate.
        params: Of the clip.
    """
    n_model = n_samples * info.sample_rate_hz // rate_hz  # what resampling leaves of it
    n_given = -(-n_model // info.hop_samples)
    if n_given >= n_frames(params.duration_us, info.frame_rate_hz):
        raise no_room_after(n_model / info.sample_rate_hz, params)
