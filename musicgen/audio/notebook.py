"""Players in a notebook."""

from torch import Tensor

from musicgen.config import ArgumentError


def display_audio(samples: Tensor, sample_rate: int) -> None:
    """Shows a player for each clip of `samples` [B, C, N] or [C, N] in a Jupyter notebook.

    Raises:
        ArgumentError: `samples` has another shape.
        ModuleNotFoundError: IPython is missing.
    """
    if samples.ndim not in (2, 3):
        raise ArgumentError(f"samples are [B, C, N] or [C, N], got {list(samples.shape)}")
    try:
        from IPython.display import Audio, display
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "display_audio needs IPython: pip install 'musicgen-batch[notebook]'"
        ) from error
    clips = samples[None] if samples.ndim == 2 else samples
    for clip in clips.detach().cpu().float():  # [C, N]
        display(Audio(clip.numpy(), rate=sample_rate))
