"""AudioCraft's Python API of AudioGen: the same model as MusicGen's, trained on sounds."""

from os import PathLike

import torch

from musicgen.checkpoints.describe import ModelInfo
from musicgen.checkpoints.load import Checkpoint, CheckpointError, Submodels
from musicgen.config import ModelSource
from musicgen.engine.runner import MAX_SLOTS
from musicgen.model import MusicGen
from musicgen.registry import AUDIOGEN

DEFAULT_DURATION_S = 5.0  # until set_generation_params is called


class AudioGen(MusicGen):
    """A loaded AudioGen with the methods of AudioCraft's class of the same name.

    It differs from `MusicGen` in its defaults. It takes neither melody nor style.

    Raises:
        CheckpointError: The model has a condition beside text.
    """

    def __init__(
        self,
        info: ModelInfo,
        checkpoint: Checkpoint,
        device: torch.device | str = "cpu",
        dtype: str = "fp32",
        max_slots: int = MAX_SLOTS,
        keep_lm: bool = True,
        repeatable: bool = True,
        max_duration: float | None = None,
    ) -> None:
        if info.kind != "text":
            raise CheckpointError(
                f"{info.path}: a {info.kind} model is no AudioGen, which reads text alone; load it "
                "with MusicGen.get_pretrained"
            )
        super().__init__(
            info, checkpoint, device, dtype, max_slots, keep_lm, repeatable, max_duration
        )
        self.duration = min(DEFAULT_DURATION_S, self.max_duration)
        self.extend_stride = AUDIOGEN.stride_in(self.max_duration) or self.info.default_stride_s

    @classmethod
    def get_pretrained(
        cls,
        name: ModelSource | str | PathLike[str] = AUDIOGEN.hub_id,
        device: torch.device | str | None = None,
        dtype: str = "fp32",
        *,
        submodels: Submodels | None = None,
        max_slots: int = MAX_SLOTS,
        keep_lm: bool = True,
        repeatable: bool = True,
        max_duration: float | None = None,
    ) -> "AudioGen":
        """Loads a model; the parameters are those of `MusicGen.get_pretrained`. `debug` is a random
        model of 16 kHz."""
        model = super().get_pretrained(
            "debug-16khz" if name == "debug" else name,
            device,
            dtype,
            submodels=submodels,
            max_slots=max_slots,
            keep_lm=keep_lm,
            repeatable=repeatable,
            max_duration=max_duration,
        )
        assert isinstance(model, AudioGen)
        return model

    def set_generation_params(  # type: ignore[override]
        self,
        use_sampling: bool = True,
        top_k: int = 250,
        top_p: float = 0.0,
        temperature: float = 1.0,
        duration: float = 10.0,
        cfg_coef: float = 3.0,
        two_step_cfg: bool = False,
        extend_stride: float | None = 2.0,
    ) -> None:
        """Sets the parameters of the next calls of the `generate` methods.

        Names, order and defaults of the arguments are AudioCraft's.

        Args:
            use_sampling, top_k, top_p, temperature, cfg_coef: See `SamplingParams`.
            duration: Length in seconds, the prompt of a continuation included. A clip longer than
                `max_duration` is made in overlapping windows.
            two_step_cfg: Accepted for AudioCraft's sake and without effect.
            extend_stride: Seconds between the beginnings of two windows; None is the model's own.

        Raises:
            ValueError: A value is out of range.
        """
        super().set_generation_params(
            use_sampling,
            top_k,
            top_p,
            temperature,
            duration,
            cfg_coef,
            two_step_cfg=two_step_cfg,
            extend_stride=extend_stride,
        )
