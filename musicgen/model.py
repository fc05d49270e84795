"""MusicGen under AudioCraft's names: prompts, melodies, styles and openings become audio."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import EncodecModel, HubertModel

from musicgen.attributes import ConditioningAttributes, Wavs, prepare_attributes
from musicgen.checkpoints.describe import ModelInfo
from musicgen.checkpoints.load import Checkpoint, load
from musicgen.codec.codec import CompressionModel
from musicgen.conditioning.features import MertFeatures
from musicgen.conditioning.text import TextEncoder
from musicgen.config import SamplingParams
from musicgen.engine.engine import Request
from musicgen.engine.runner import MAX_SLOTS, Progress, Runner, log_progress
from musicgen.loaded import LoadedModel
from musicgen.windows import default_stride_s, stride_frames

DEFAULT_DURATION_S = 15.0  # until set_generation_params is called

Generated = Tensor | tuple[Tensor, Tensor]
Sampling = Sequence[SamplingParams | None]


class MusicGen(LoadedModel):
    """A loaded model.

    `generate` and its kin are for scripts and notebooks; a job uses `make_engine`, `make_request`
    and `decode` and lets clips of different lengths and parameters run side by side.

    There is no global generator: where a call gives no `seeds`, row i has seed i. Beyond
    AudioCraft's arguments each of them takes, one per clip, `seeds` and `sampling`: parameters that
    replace those of `set_generation_params` where they are not None.
    """

    def __init__(
        self,
        info: ModelInfo,
        checkpoint: Checkpoint,
        device: torch.device | str = "cpu",
        dtype: str = "fp32",
        max_slots: int = MAX_SLOTS,
        keep_lm: bool = True,
    ) -> None:
        super().__init__(info, checkpoint, device, dtype, keep_lm=keep_lm)
        self._runner = Runner(self.make_engine, max_slots)
        self.sampling = SamplingParams()
        self.duration = min(DEFAULT_DURATION_S, info.max_duration_s)
        self.extend_stride = default_stride_s(info.max_duration_s)
        self._on_progress: Progress | None = None

    @classmethod
    def get_pretrained(
        cls,
        name: str = "facebook/musicgen-melody",
        device: torch.device | str | None = None,
        dtype: str = "fp32",
        *,
        revision: str | None = None,
        text_encoder: str | TextEncoder | None = None,
        codec: str | EncodecModel | CompressionModel | None = None,
        style_encoder: str | MertFeatures | HubertModel | None = None,
        max_slots: int = MAX_SLOTS,
        keep_lm: bool = True,
    ) -> "MusicGen":
        """Loads `tiny`, a short name, a hub id or a local folder (see `files.describe`).

        Args:
            name: Which model.
            device: CUDA where there is one unless given.
            dtype: What the language model computes in; T5 and EnCodec stay fp32.
            revision: Branch, tag or commit of a hub id.
            text_encoder: A T5 in place of the checkpoint's own: folder, hub id or module.
            codec: An EnCodec likewise.
            style_encoder: A MERT likewise.
            max_slots: Clips that `generate` and its kin run side by side.
            keep_lm: Whether `lm` itself stays usable, beside the engine's copy of its weights; a
                job says False and holds them once.
        """
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        info, checkpoint = load(
            name,
            revision=revision,
            text_encoder=text_encoder,
            codec=codec,
            style_encoder=style_encoder,
        )
        return cls(info, checkpoint, device, dtype, max_slots, keep_lm)

    def set_generation_params(
        self,
        use_sampling: bool = True,
        top_k: int = 250,
        top_p: float = 0.0,
        temperature: float = 1.0,
        duration: float = 30.0,
        cfg_coef: float = 3.0,
        cfg_coef_beta: float | None = None,
        two_step_cfg: bool = False,
        extend_stride: float | None = None,
    ) -> None:
        """Sets what `generate` and its kin use from now on.

        Args:
            use_sampling, top_k, top_p, temperature, cfg_coef, cfg_coef_beta: See `SamplingParams`.
            duration: In seconds, the prompt of a continuation included. Past `max_duration` a clip
                is made in windows.
            two_step_cfg: Whether guidance takes its passes one after the other. It changes no
                number: here the passes never meet, and the coefficient is the one that is passed.
            extend_stride: Seconds by which windows move on; the rest of a window is their overlap.
                Unless given 18 where a window has 30 s, and 0.6 of a shorter one.
        """
        if extend_stride is None:
            extend_stride = default_stride_s(self.max_duration)
        several = self._frames(duration) > self._requests.max_frames
        stride_frames(
            extend_stride, self.frame_rate, self._requests.max_frames if several else None
        )
        self.sampling = SamplingParams(
            use_sampling=use_sampling,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            cfg_coef=cfg_coef,
            cfg_coef_beta=cfg_coef_beta,
        )
        self.duration = duration
        self.extend_stride = extend_stride

    def set_style_conditioner_params(
        self,
        eval_q: int = 3,
        excerpt_length: float = 3.0,
        ds_factor: int | None = None,
        encodec_n_q: int | None = None,
    ) -> None:
        """Sets how a style model listens from now on.

        Args:
            eval_q: Codebooks that the style passes: the fewer, the freer the music.
            excerpt_length: Seconds of the audio that are heard.
            ds_factor: Every how many feature frames one is kept; None leaves it.
            encodec_n_q: Codebooks of EnCodec, where that is what hears; None leaves it.
        """
        style = self._requests.style
        if style is None:
            raise ValueError(
                f"model {self.name!r} reads no style; use a style model (facebook/musicgen-style)"
            )
        self._requests.style = replace(
            style,
            eval_q=eval_q,
            excerpt_length_s=excerpt_length,
            ds_factor=style.ds_factor if ds_factor is None else ds_factor,
            encodec_n_q=style.encodec_n_q if encodec_n_q is None else encodec_n_q,
        )
        self._runner.forget()  # prefixes may be longer now

    def set_custom_progress_callback(self, progress_callback: Progress | None = None) -> None:
        """Calls `progress_callback(steps done, steps in all)` where a call has progress=True."""
        self._on_progress = progress_callback

    def generate(
        self,
        descriptions: Sequence[str | None],
        progress: bool = False,
        return_tokens: bool = False,
        seeds: Sequence[int] | None = None,
        sampling: Sampling | None = None,
    ) -> Generated:
        """One clip per description: audio [B, C, N], with `return_tokens` also codes [B, K, T].

        `progress` reports steps.
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
        """`num_samples` clips of whatever the model likes; returns as `generate`."""
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
        """Clips that follow melodies, on a style model styles; returns as `generate`.

        Args:
            descriptions: One per clip.
            melody_wavs: [B, C, N], [C, N] for one clip, a list of [C, N] and None, or None.
            melody_sample_rate: Of all melodies, in Hz.
            progress, return_tokens, seeds, sampling: As in `generate`.
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
        """Clips that begin with `prompt` [B, C, N] or [C, N]; returns as `generate`.

        The duration includes the prompt, and the prompt (through the codec) is part of the audio.
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
            "seeds": range(len(clips)) if seeds is None else seeds,
            "sampling": none if sampling is None else sampling,
        }
        for clip in clips:
            if not isinstance(clip.description, str | None):
                raise ValueError(f"descriptions are texts or None, got {clip.description!r}")
        for name, values in by_row.items():
            if len(values) != len(clips):
                raise ValueError(f"{name} has {len(values)} entries for {len(clips)} descriptions")
        rows = zip(range(len(clips)), clips, *by_row.values(), strict=True)
        requests = [self._request(*row) for row in rows]
        on_progress = (self._on_progress or log_progress) if progress else None
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
            str(row),
            prompt=clip.description,
            n_frames=total,
            seed=seed,
            sampling=sampling or self.sampling,
            melody_chroma=melody,
            style=style,
            continuation=prompt,
            extend_stride_s=self.extend_stride,
        )
