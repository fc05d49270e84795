"""AudioCraft's Python API: `MusicGen` turns prompts, melodies and styles into audio."""

from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from typing import Any, TypedDict, Unpack

import torch
from torch import Tensor

from musicgen.attributes import ConditioningAttributes, Wavs, prepare_attributes
from musicgen.checkpoints.describe import ModelInfo
from musicgen.checkpoints.load import Checkpoint, Submodels, load
from musicgen.config import ArgumentError, ModelSource, SamplingParams
from musicgen.engine.engine import Request
from musicgen.engine.runner import MAX_SLOTS, Progress, Runner, log_progress
from musicgen.loaded import LoadedModel
from musicgen.request_builder import GenerationRequest, draw_seeds
from musicgen.windows import stride_frames

DEFAULT_DURATION_S = 15.0  # until set_generation_params is called

Generated = Tensor | tuple[Tensor, Tensor]
Sampling = Sequence[SamplingParams | None]


class RareParams(TypedDict, total=False):
    """Parameters of `MusicGen.set_generation_params` that are given by name."""

    two_step_cfg: bool
    extend_stride: float | None


class MusicGen(LoadedModel):
    """A loaded model with the methods of AudioCraft's class of the same name.

    The `generate` methods are for scripts and notebooks. A job uses `make_engine`, `make_request`
    and `decode`, so that clips of different lengths and parameters run side by side.

    Two arguments of the `generate` methods are not AudioCraft's, and give one value per clip:
    `seeds` and `sampling`, which replaces the parameters of `set_generation_params` where it is not
    None. A seed decides its clip alone; without `seeds` they are drawn from torch's generator, so
    that `torch.manual_seed` decides all later calls and each call gives other clips.

    Attributes:
        duration: Length of the next clips in seconds.
        extend_stride: Seconds between the beginnings of two windows.
        generation_params: The other parameters of `set_generation_params` under the names that
            AudioCraft's language model has for them (`temp` is the temperature); what is changed in
            it counts from the next call on.
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
        super().__init__(info, checkpoint, device, dtype, keep_lm=keep_lm, repeatable=repeatable)
        self._runner = Runner(self.make_engine, max_slots)
        if max_duration is not None:
            self.max_duration = max_duration
        self._on_progress: Progress | None = None
        self.generation_params: dict[str, Any] = {}
        self.set_generation_params(duration=min(DEFAULT_DURATION_S, self.max_duration))

    @property
    def max_duration(self) -> float:
        """Longest window in seconds; longer clips are made in several. A script may set it to
        another number than the model was trained for, from the next call on."""
        return self.info.max_duration_s

    @max_duration.setter
    def max_duration(self, duration_s: float) -> None:
        self.set_window(duration_s)
        self._runner.forget()

    @property
    def sampling(self) -> SamplingParams:
        """`generation_params` as the engine reads them."""
        params = dict(self.generation_params)
        params.pop("two_step_cfg", None)
        return SamplingParams(temperature=params.pop("temp"), **params)

    @classmethod
    def get_pretrained(
        cls,
        name: ModelSource | str | PathLike[str] = "facebook/musicgen-melody",
        device: torch.device | str | None = None,
        dtype: str = "fp32",
        *,
        submodels: Submodels | None = None,
        max_slots: int = MAX_SLOTS,
        keep_lm: bool = True,
        repeatable: bool = True,
        max_duration: float | None = None,
    ) -> "MusicGen":
        """Loads a model.

        Args:
            name: `tiny`, a short name, a hub id, a local folder (a path always is one), or a
                `ModelSource`, which can also name a revision and sub-models from elsewhere.
                `debug` is a random model that makes noise at once, for tests.
            device: Where the model computes; None takes CUDA where there is a GPU, else the CPU.
            dtype: fp32, bf16 or (GPU only) fp16 for the language model; T5 and EnCodec stay fp32.
            submodels: A T5, an EnCodec or a MERT that is loaded already.
            max_slots: How many clips `generate` and the other methods like it run side by side.
            keep_lm: Whether `lm` stays usable beside the engine's copy of its weights. False holds
                the weights once, as a job does.
            repeatable: Whether a GPU takes the algorithms whose bits repeat. The switches are those
                of torch for the whole process (`musicgen.engine.cuda.use_repeatable_numerics`).
            max_duration: Longest window in seconds; None is what the model was trained for.

        Raises:
            ValueError: The model is not found or can't be read; the message says why.
        """
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        info, checkpoint = load(name, submodels)
        return cls(info, checkpoint, device, dtype, max_slots, keep_lm, repeatable, max_duration)

    def set_generation_params(
        self,
        use_sampling: bool = True,
        top_k: int = 250,
        top_p: float = 0.0,
        temperature: float = 1.0,
        duration: float = 30.0,
        cfg_coef: float = 3.0,
        cfg_coef_beta: float | None = None,
        **rare: Unpack[RareParams],
    ) -> None:
        """Sets the parameters of the next calls of the `generate` methods.

        Names, order and defaults of the arguments are AudioCraft's; those after `cfg_coef_beta`
        are given by name.

        Args:
            use_sampling, top_k, top_p, temperature, cfg_coef, cfg_coef_beta: See `SamplingParams`.
            duration: Length in seconds, the prompt of a continuation included. A clip longer than
                `max_duration` is made in overlapping windows.
            two_step_cfg: Accepted for AudioCraft's sake and without effect. There it runs the
                passes of guidance one after the other; here they never influence each other.
            extend_stride: Seconds between the beginnings of two windows; the rest of a window
                overlaps with the one before. The default is 18 s for windows of 30 s, 0.6 of a
                shorter window, and 2 s for AudioGen.

        Raises:
            ValueError: A value is out of range.
            TypeError: There is no such argument.
        """
        unknown = sorted(rare.keys() - RareParams.__annotations__.keys())
        if unknown:
            raise TypeError(f"set_generation_params() knows no argument {', '.join(unknown)}")
        extend_stride = rare.get("extend_stride")
        if extend_stride is None:
            extend_stride = self.info.default_stride_s
        several = self._frames(duration) > self._requests.max_frames
        stride_frames(
            extend_stride, self.frame_rate, self._requests.max_frames if several else None
        )
        SamplingParams(use_sampling, temperature, top_k, top_p, cfg_coef, cfg_coef_beta)  # checks
        self.generation_params = {
            "use_sampling": use_sampling,
            "temp": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "cfg_coef": cfg_coef,
            "two_step_cfg": rare.get("two_step_cfg", False),
            "cfg_coef_beta": cfg_coef_beta,
        }
        self.duration = duration
        self.extend_stride = extend_stride

    def set_style_conditioner_params(
        self,
        eval_q: int = 3,
        excerpt_length: float = 3.0,
        ds_factor: int | None = None,
        encodec_n_q: int | None = None,
    ) -> None:
        """Sets the parameters of the style conditioner for the next calls.

        Args:
            eval_q: Codebooks of the residual quantiser that are used; with fewer of them the music
                follows the style less closely.
            excerpt_length: Seconds of the audio that are used.
            ds_factor: Of every `ds_factor` feature frames one is kept; None leaves it as it is.
            encodec_n_q: Codebooks of EnCodec that are used, if EnCodec is the feature extractor;
                None leaves it as it is.

        Raises:
            ValueError: A value is out of range, or (ArgumentError) the model is no style model.
        """
        style = self.style
        if style is None:
            raise ArgumentError(
                f"model {self.name!r} reads no style; use a style model (facebook/musicgen-style)"
            )
        self._requests.style = replace(
            style,
            eval_q=eval_q,
            excerpt_length_s=excerpt_length,
            ds_factor=style.ds_factor if ds_factor is None else ds_factor,
            encodec_n_q=style.encodec_n_q if encodec_n_q is None else encodec_n_q,
        )
        self._runner.forget()  # the style prefix may be longer than the engine's

    def set_custom_progress_callback(self, progress_callback: Progress | None = None) -> None:
        """Sets what is called with (steps done, steps in all) after each step if progress=True."""
        self._on_progress = progress_callback

    def generate(
        self,
        descriptions: Sequence[str | None],
        progress: bool = False,
        return_tokens: bool = False,
        seeds: Sequence[int] | None = None,
        sampling: Sampling | None = None,
    ) -> Generated:
        """Generates one clip per description.

        Args:
            descriptions: Prompts; None and "" are no text.
            progress: Whether steps are reported, by the callback or by `logging`.
            return_tokens: Whether the codes are returned too.
            seeds: One per clip; None draws them from torch's global generator.
            sampling: One per clip; None keeps the parameters of `set_generation_params`.

        Returns:
            Audio float32 [B, C, N]; with `return_tokens` the pair of it and codes int64 [B, K, T].

        Raises:
            ValueError: An argument is out of range, or lists have different lengths.
            RuntimeError: A clip failed while it was generated.
        """
        clips = prepare_attributes(descriptions, None, self.sample_rate, self.info)
        return self._generate(clips, None, progress, return_tokens, seeds, sampling)

    def generate_unconditional(
        self,
        num_samples: int,
        progress: bool = False,
        return_tokens: bool = False,
        seeds: Sequence[int] | None = None,
        sampling: Sampling | None = None,
    ) -> Generated:
        """Generates `num_samples` clips without any condition; the rest as in `generate`."""
        if num_samples < 1:
            raise ValueError(f"num_samples={num_samples} must be at least 1")
        return self.generate([None] * num_samples, progress, return_tokens, seeds, sampling)

    def generate_with_chroma(
        self,
        descriptions: Sequence[str | None],
        melody_wavs: Wavs | None,
        melody_sample_rate: int,
        progress: bool = False,
        return_tokens: bool = False,
        seeds: Sequence[int] | None = None,
        sampling: Sampling | None = None,
    ) -> Generated:
        """Generates clips that follow melodies, or styles if the model is a style model.

        Args:
            descriptions: One per clip.
            melody_wavs: [B, C, N], [C, N] for one clip, a list of [C, N] and None, or None.
            melody_sample_rate: Sample rate of all melodies, in Hz.
            progress, return_tokens, seeds, sampling: As in `generate`.

        Returns:
            As `generate`.
        """
        clips = prepare_attributes(descriptions, melody_wavs, melody_sample_rate, self.info)
        return self._generate(clips, None, progress, return_tokens, seeds, sampling)

    def generate_continuation(
        self,
        prompt: Tensor,
        prompt_sample_rate: int,
        descriptions: Sequence[str | None] | None = None,
        progress: bool = False,
        return_tokens: bool = False,
        seeds: Sequence[int] | None = None,
        sampling: Sampling | None = None,
    ) -> Generated:
        """Generates clips that continue audio; returns as `generate`.

        The duration includes the prompt, and the audio begins with the prompt as the codec
        reproduces it.

        Args:
            prompt: Audio [B, C, N] or, for one clip, [C, N].
            prompt_sample_rate: Its sample rate, in Hz.
            descriptions: One per clip; None is no text for any of them.
            progress, return_tokens, seeds, sampling: As in `generate`.
        """
        prompt = prompt[None] if prompt.ndim == 2 else prompt
        if prompt.ndim != 3:
            raise ValueError(f"prompt is [batch, channels, samples], got {list(prompt.shape)}")
        if descriptions is None:
            descriptions = [None] * len(prompt)
        clips = prepare_attributes(descriptions, None, self.sample_rate, self.info)
        prompts = [self.own_audio(wav, prompt_sample_rate) for wav in prompt]
        return self._generate(clips, prompts, progress, return_tokens, seeds, sampling)

    def _generate(
        self,
        clips: Sequence[ConditioningAttributes],
        prompts: Sequence[Tensor] | None,
        progress: bool,
        return_tokens: bool,
        seeds: Sequence[int] | None,
        sampling: Sampling | None,
    ) -> Generated:
        none = [None] * len(clips)
        by_row: dict[str, Sequence[Any]] = {
            "prompt": none if prompts is None else prompts,
            "seeds": draw_seeds(len(clips)) if seeds is None else seeds,
            "sampling": none if sampling is None else sampling,
        }
        for clip in clips:
            if not isinstance(clip.description, str | None):
                raise ValueError(f"descriptions are texts or None, got {clip.description!r}")
        for name, values in by_row.items():
            if len(values) != len(clips):
                raise ArgumentError(
                    f"{name} has {len(values)} entries for {len(clips)} descriptions"
                )
        rows = zip(range(len(clips)), clips, *by_row.values(), strict=True)
        on_progress = (self._on_progress or log_progress) if progress else None
        texts = [clip.description for clip in clips]
        with self.text_encoder.room_for(texts) as is_wider, self._runner.apart(is_wider):
            requests = [self._request(*row) for row in rows]
            codes = self._runner.run(requests, self.lm.cfg.max_delay, on_progress)
        tokens = torch.stack(codes)  # [B, K, T]
        audio = torch.stack([self.decode(clip) for clip in tokens])  # [B, C, N]
        return (audio, tokens) if return_tokens else audio

    def _request(
        self,
        row: int,
        clip: ConditioningAttributes,
        prompt: Tensor | None,
        seed: int,
        sampling: SamplingParams | None,
    ) -> Request:
        total = self._frames(self.duration)
        melody = style = None
        if clip.audio is not None and self.info.kind == "melody":
            melody = self.melody_chroma(
                clip.audio,
                clip.audio_rate_hz,
                n_frames=total,
                extend_stride_s=self.extend_stride,
            )
        elif clip.audio is not None:
            style = self.own_audio(clip.audio, clip.audio_rate_hz)
        return self.make_request(
            GenerationRequest(
                key=str(row),
                prompt=clip.description,
                n_frames=total,
                seed=seed,
                sampling=sampling or self.sampling,
                melody_chroma=melody,
                style=style,
                continuation=prompt,
                extend_stride_s=self.extend_stride,
            )
        )
