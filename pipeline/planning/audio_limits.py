"""Which reference audio a model can use for a clip. Free of pyarrow, whose allocator has a thread:
the process from which readers are forked must have no other than its own."""

from manifests.row_errors import UnsuitableRowError, no_room_after
from manifests.schema import EffectiveParams
from musicgen.checkpoints.describe import ModelInfo
from musicgen.config import n_frames, resampling_ratio


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
