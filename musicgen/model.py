"""MusicGen under AudioCraft's names: prompts, melodies and openings become audio."""

from collections.abc import Sequence

import torch
from torch import Tensor

from musicgen.audio import resample, to_channels
from musicgen.checkpoints import Checkpoint, load_checkpoint
from musicgen.conditioning.chroma import ChromaExtractor
from musicgen.config import SamplingParams, n_frames
from musicgen.engine import Engine, Request
from musicgen.files import ModelInfo, describe
from musicgen.inputs import RequestMaker
from musicgen.runner import MAX_SLOTS, Progress, Runner, log_progress

DEFAULT_DURATION_S = 15.0  # until set_generation_params is called

Generated = Tensor | tuple[Tensor, Tensor]


class MusicGen:
    """A loaded model.

    `generate` and its kin are for scripts and notebooks; a job uses `make_engine`, `make_request`
    and `decode` and lets clips of different lengths and parameters run side by side.

    A clip depends on its own prompt, audio, parameters and seed, never on its batch-mates. There is
    no global generator: where a call gives no `seeds`, row i has seed i.
    """

    def __init__(
        self,
        info: ModelInfo,
        checkpoint: Checkpoint,
        device: torch.device | str = "cpu",
        dtype: str = "fp32",
        max_slots: int = MAX_SLOTS,
    ) -> None:
        self.info = info
        self.device = torch.device(device)
        self.dtype = dtype
        self.lm = checkpoint.lm.to(self.device)
        self.text_encoder = checkpoint.text.to(self.device)
        self.compression_model = checkpoint.codec.to(self.device)
        self.chroma = ChromaExtractor(info.chroma) if info.chroma else None
        self._requests = RequestMaker(info, self.lm, self.text_encoder, self.compression_model)
        self._runner = Runner(self.make_engine, max_slots)
        self.sampling = SamplingParams()
        self.duration = min(DEFAULT_DURATION_S, info.max_duration_s)
        self._on_progress: Progress | None = None

    @classmethod
    def get_pretrained(
        cls,
        name: str = "facebook/musicgen-melody",
        device: torch.device | str | None = None,
        dtype: str = "fp32",
        *,
        revision: str | None = None,
        max_slots: int = MAX_SLOTS,
    ) -> "MusicGen":
        """Loads `tiny`, a short name, a hub id or a local folder (see `files.describe`).

        Args:
            name: Which model.
            device: CUDA where there is one unless given.
            dtype: What the language model computes in; T5 and EnCodec stay fp32.
            revision: Branch, tag or commit of a hub id.
            max_slots: Clips that `generate` and its kin run side by side.
        """
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        info = describe(name, revision=revision)
        return cls(info, load_checkpoint(info), device, dtype, max_slots)

    @property
    def name(self) -> str:
        """The name that the model was loaded under."""
        return self.info.name

    @property
    def sample_rate(self) -> int:
        """Of the audio that comes out, in Hz."""
        return self.info.sample_rate_hz

    @property
    def frame_rate(self) -> int:
        """Token frames per second."""
        return self.info.frame_rate_hz

    @property
    def audio_channels(self) -> int:
        """Of the audio that comes out."""
        return self.info.channels

    @property
    def max_duration(self) -> float:
        """Longest clip in seconds."""
        return self.info.max_duration_s

    def set_generation_params(
        self,
        use_sampling: bool = True,
        top_k: int = 250,
        top_p: float = 0.0,
        temperature: float = 1.0,
        duration: float = 30.0,
        cfg_coef: float = 3.0,
        cfg_coef_beta: float | None = None,
    ) -> None:
        """Sets what `generate` and its kin use from now on.

        `duration` is in seconds, the prompt of a continuation included; for the rest see
        `SamplingParams`.
        """
        self._frames(duration)
        self.sampling = SamplingParams(
            use_sampling=use_sampling,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            cfg_coef=cfg_coef,
            cfg_coef_beta=cfg_coef_beta,
        )
        self.duration = duration

    def set_custom_progress_callback(self, progress_callback: Progress | None = None) -> None:
        """Calls `progress_callback(steps done, steps in all)` where a call has progress=True."""
        self._on_progress = progress_callback

    def generate(
        self,
        descriptions: Sequence[str | None],
        progress: bool = False,
        return_tokens: bool = False,
        seeds: Sequence[int] | None = None,
    ) -> Generated:
        """One clip per description: audio [B, C, N], with `return_tokens` also codes [B, K, T].

        `progress` reports steps; `seeds` has one per clip.
        """
        none = [None] * len(descriptions)
        return self._generate(descriptions, none, none, progress, return_tokens, seeds)

    def generate_unconditional(
        self,
        num_samples: int,
        progress: bool = False,
        return_tokens: bool = False,
        seeds: Sequence[int] | None = None,
    ) -> Generated:
        """`num_samples` clips of whatever the model likes; returns as `generate`."""
        return self.generate([None] * num_samples, progress, return_tokens, seeds)

    def generate_with_chroma(
        self,
        descriptions: Sequence[str | None],
        melody_wavs: Tensor | Sequence[Tensor | None],
        melody_sample_rate: int,
        progress: bool = False,
        return_tokens: bool = False,
        seeds: Sequence[int] | None = None,
    ) -> Generated:
        """Clips that follow melodies; returns as `generate`.

        Args:
            descriptions: One per clip.
            melody_wavs: [B, C, N], [C, N] for one clip, or a list of [C, N] and None.
            melody_sample_rate: Of all melodies, in Hz.
            progress, return_tokens, seeds: As in `generate`.
        """
        if isinstance(melody_wavs, Tensor):
            melody_wavs = list(_batched(melody_wavs, "melody_wavs"))
        _same_length("melody_wavs", melody_wavs, descriptions)
        melodies = [
            None if wav is None else self.melody_chroma(wav, melody_sample_rate)
            for wav in melody_wavs
        ]
        none = [None] * len(descriptions)
        return self._generate(descriptions, melodies, none, progress, return_tokens, seeds)

    def generate_continuation(
        self,
        prompt: Tensor,
        prompt_sample_rate: int,
        descriptions: Sequence[str | None] | None = None,
        progress: bool = False,
        return_tokens: bool = False,
        seeds: Sequence[int] | None = None,
    ) -> Generated:
        """Clips that begin with `prompt` [B, C, N] or [C, N]; returns as `generate`.

        The duration includes the prompt, and the prompt (through the codec) is part of the audio.
        """
        prompts = [
            to_channels(resample(wav, prompt_sample_rate, self.sample_rate), self.audio_channels)
            for wav in _batched(prompt, "prompt")
        ]
        if descriptions is None:
            descriptions = [None] * len(prompts)
        _same_length("prompt", prompts, descriptions)
        none = [None] * len(descriptions)
        return self._generate(descriptions, none, prompts, progress, return_tokens, seeds)

    def melody_chroma(self, wav: Tensor, sample_rate_hz: int) -> Tensor:
        """Pitch classes [n] of a melody [C, N], what `make_request` takes."""
        if self.chroma is None:
            raise ValueError(
                f"model {self.name!r} takes no melody; use a melody model (e.g. facebook/"
                "musicgen-melody) or leave the melody out"
            )
        return self.chroma(wav.detach().cpu(), sample_rate_hz)

    def make_engine(self, slots: int) -> Engine:
        """An engine of 2 · `slots` rows for clips of up to `max_duration`."""
        return Engine(
            self.lm,
            slots=slots,
            max_frames=self._requests.max_frames,
            max_text_tokens=self.text_encoder.max_tokens,
            dtype=self.dtype,
        )

    def make_request(
        self,
        key: str,
        *,
        prompt: str | None,
        n_frames: int,
        seed: int,
        sampling: SamplingParams,
        melody_chroma: Sequence[int] | Tensor | None = None,
        continuation: Tensor | None = None,
    ) -> Request:
        """What the engine needs for one clip.

        Args:
            key: Comes back with the clip.
            prompt: Text; None and "" are none.
            n_frames: Length of the clip, its continuation prompt included.
            seed: 0 … 2^63 − 1.
            sampling: How tokens are chosen.
            melody_chroma: Pitch classes from `melody_chroma`.
            continuation: Audio [C, N] at the model's sample rate that the clip begins with.

        Raises:
            ValueError: this clip can't be made; the message says why and what would help.
        """
        return self._requests.make(
            key,
            prompt=prompt,
            n_frames=n_frames,
            seed=seed,
            sampling=sampling,
            melody_chroma=melody_chroma,
            continuation=continuation,
        )

    def decode(self, codes: Tensor) -> Tensor:
        """Audio [C, T·hop] in float32 on the CPU of one clip's codes [K, T]."""
        wav = self.compression_model.decode(codes[None].to(self.device))  # [1, C, N]
        return wav[0].float().cpu()

    def _frames(self, duration_s: float) -> int:
        if not 0 < duration_s <= self.max_duration:
            raise ValueError(
                f"duration={duration_s} s lies outside the model's 0 … {self.max_duration:g} s"
            )
        return n_frames(round(duration_s * 1_000_000), self.frame_rate)

    def _generate(
        self,
        descriptions: Sequence[str | None],
        melodies: Sequence[Tensor | None],
        prompts: Sequence[Tensor | None],
        progress: bool,
        return_tokens: bool,
        seeds: Sequence[int] | None,
    ) -> Generated:
        if isinstance(descriptions, str) or not len(descriptions):
            raise ValueError("descriptions is a list with one entry per clip, and not empty")
        seeds = range(len(descriptions)) if seeds is None else seeds
        _same_length("seeds", seeds, descriptions)
        requests = [
            self.make_request(
                str(row),
                prompt=prompt,
                n_frames=self._frames(self.duration),
                seed=seed,
                sampling=self.sampling,
                melody_chroma=melody,
                continuation=continuation,
            )
            for row, (prompt, melody, continuation, seed) in enumerate(
                zip(descriptions, melodies, prompts, seeds, strict=True)
            )
        ]
        on_progress = (self._on_progress or log_progress) if progress else None
        clips = self._runner.run(requests, self.lm.cfg.max_delay, on_progress)
        tokens = torch.stack(clips)  # [B, K, T]
        audio = torch.stack([self.decode(codes) for codes in tokens])  # [B, C, N]
        return (audio, tokens) if return_tokens else audio


def _batched(wav: Tensor, name: str) -> Tensor:
    wav = wav[None] if wav.ndim == 2 else wav
    if wav.ndim != 3:
        raise ValueError(f"{name} is [batch, channels, samples], got {list(wav.shape)}")
    return wav


def _same_length(name: str, values: Sequence[object], descriptions: Sequence[object]) -> None:
    if len(values) != len(descriptions):
        raise ValueError(f"{name} has {len(values)} entries for {len(descriptions)} descriptions")
