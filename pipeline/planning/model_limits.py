"""What the job must know of a checkpoint before any of it is loaded; free of torch."""

from functools import partial
from importlib.util import find_spec

from manifests.check import CheckedModel
from manifests.row_errors import UnsuitableRowError, no_room_after
from manifests.schema import EffectiveParams
from musicgen.checkpoints.describe import ModelInfo, describe
from musicgen.config import n_frames, resampling_ratio
from pipeline.config import JobConfig
from pipeline.planning.expand import ModelLimits


def inspect_model(config: JobConfig) -> ModelInfo:
    """The checkpoint that the config names. ModelNotFoundError says what is missing and where."""
    return describe(config.model.source)


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


def checked_model(info: ModelInfo) -> CheckedModel:
    """The same for `manifest check`."""
    limits = limits_of(info)
    return CheckedModel(limits.name, limits.roles, partial(check_audio, info))


def check_audio(
    info: ModelInfo, role: str, n_samples: int, rate_hz: int, params: EffectiveParams
) -> None:
    """Raises UnsuitableRowError for a reference that is sound, but not for this model and clip.

    Args:
        info: The checkpoint.
        role: What the reference is for.
        n_samples: Its length at its own rate.
        rate_hz: Its rate.
        params: Of the clip.
    """
    chroma = info.chroma if role == "melody" else None
    model_hz = info.sample_rate_hz if chroma is None else chroma.sample_rate_hz
    try:
        resampling_ratio(rate_hz, model_hz)
    except ValueError as error:
        raise UnsuitableRowError(f"{role}: {error}") from error
    n_model = n_samples * model_hz // rate_hz  # what resampling leaves of it
    if role == "continuation":
        n_given = -(-n_model // info.hop_samples)
        if n_given >= n_frames(params.duration_us, info.frame_rate_hz):
            raise no_room_after(n_model / model_hz, params)
    if role == "style" and info.style is not None:
        excerpt_s = params.style_excerpt_s or info.style.excerpt_length_s
        if n_model < int(excerpt_s * model_hz):
            raise UnsuitableRowError(
                f"the style's audio is {n_model / model_hz:g} s long and an excerpt of "
                f"{excerpt_s:g} s is read from it; give longer audio or lower style_excerpt_s"
            )
