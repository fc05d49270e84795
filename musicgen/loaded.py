"""A loaded model as a job uses it: it makes engines and requests, and decodes codes to audio."""

from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor

from musicgen.audio import convert_audio
from musicgen.checkpoints.describe import ModelInfo
from musicgen.checkpoints.load import Checkpoint
from musicgen.checkpoints.reference_settings import Settings, reference_settings
from musicgen.conditioning.chroma import ChromaExtractor
from musicgen.conditioning.separation import load_separator
from musicgen.config import ArgumentError, StyleConfig, WrongModelError, n_frames
from musicgen.engine.cuda import DeviceStream, use_repeatable_numerics
from musicgen.engine.engine import ROWS_PER_SLOT, Engine, EngineOptions, Request
from musicgen.engine.invariance import BitsDependOn, bits_depend_on
from musicgen.engine.request import Limits
from musicgen.engine.weights import StepWeights, drop_weights, prepare
from musicgen.modules.transformer import sinusoid
from musicgen.registry import row_bytes
from musicgen.request_builder import GenerationRequest, RequestBuilder
from musicgen.windows import plan_windows, stride_frames

LONGEST_S = 3600.0

Beside = Literal["conditions", "codec"]  # what runs beside the engine


class LoadedModel:
    """The models of one MusicGen on one device: language model, text encoder, codec, conditioners.

    A clip depends on its own prompt, audio, parameters and seed, never on other clips.

    Args:
        info: The model.
        checkpoint: Its language model and sub-models.
        device: The device of all of them.
        dtype: Number format of the language model: fp32, bf16 or (GPU only) fp16.
        keep_lm: Whether `lm` stays usable. If False it is never moved to the GPU and is freed once
            the engine's weights are made of it, so that memory holds them once, in `dtype`.
        repeatable: Whether a GPU takes the algorithms whose bits repeat, in the whole process.
    """

    def __init__(
        self,
        info: ModelInfo,
        checkpoint: Checkpoint,
        device: torch.device | str = "cpu",
        dtype: str = "fp32",
        *,
        keep_lm: bool = True,
        repeatable: bool = True,
    ) -> None:
        self.info = info
        self.device = torch.device(device)
        self._repeatable = repeatable or self.device.type != "cuda"
        if self.device.type == "cuda":
            use_repeatable_numerics(repeatable)
        self.dtype = dtype
        self.lm = checkpoint.lm
        self._keep_lm = keep_lm
        self._weights: StepWeights | None = None
        (self.lm if keep_lm else self.lm.condition_provider).to(self.device)
        self.text_encoder = checkpoint.text.to(self.device)
        self.compression_model = checkpoint.codec.to(self.device)
        features = checkpoint.style_features
        self.style_features = None if features is None else features.to(self.device)
        self._streams = {work: DeviceStream(self.device) for work in get_args(Beside)}
        self.chroma = ChromaExtractor(info.chroma, load_separator()) if info.chroma else None
        self._requests = RequestBuilder(
            info, self.lm, self.text_encoder, self.compression_model, self.style_features
        )

    @property
    def name(self) -> str:
        """The name that the model was loaded under."""
        return self.info.name

    @property
    def sample_rate(self) -> int:
        """Sample rate of the generated audio, in Hz."""
        return self.info.sample_rate_hz

    @property
    def cfg(self) -> Settings:
        """The model's settings under the keys of AudioCraft's `xp.cfg`, to be read."""
        return reference_settings(self.info, self.lm.cfg)

    @property
    def frame_rate(self) -> int:
        """Token frames per second."""
        return self.info.frame_rate_hz

    @property
    def audio_channels(self) -> int:
        """Channels of the generated audio."""
        return self.info.channels

    @property
    def max_duration(self) -> float:
        """Longest window in seconds; longer clips are made in several."""
        return self.info.max_duration_s

    def set_window(self, duration_s: float) -> None:
        """Lets the next requests, and engines that are made from now on, have windows of up to
        `duration_s`."""
        frames = self._frames(duration_s)
        self.info = replace(self.info, max_duration_s=duration_s)
        self._requests.info, self._requests.max_frames = self.info, frames

    @property
    def style(self) -> StyleConfig | None:
        """Parameters of the style conditioner for the next requests; None if the model has none."""
        return self._requests.style

    def make_engine(
        self, slots: int, *, graphs: bool | None = None, longest_first: bool = False
    ) -> Engine:
        """A new engine of 2 · `slots` rows for windows of up to `max_duration`.

        Engines of one model share their weights. `EngineOptions` explains the parameters.
        """
        limits = self._limits(slots)
        options = EngineOptions(
            slots=slots,
            max_frames=limits.max_frames,
            max_text_tokens=limits.max_text_tokens,
            max_audio_frames=limits.max_audio_frames,
            dtype=self.dtype,
            graphs=graphs,
            longest_first=longest_first,
        )
        return Engine(self.lm, options, self._prepared(limits.n_cells(self.lm.cfg)))

    def slots_that_fit(self, reserve_bytes: int) -> int | None:
        """How many slots fit into the GPU's free memory; None on a CPU.

        `reserve_bytes` are kept free for the codec, the text encoder and the activations of steps.
        """
        if self.device.type != "cuda":
            return None
        self._prepared(self._limits(1).n_cells(self.lm.cfg))
        torch.cuda.empty_cache()
        free_bytes, _ = torch.cuda.mem_get_info(self.device)
        return (free_bytes - reserve_bytes) // self.slot_bytes

    def bits_depend_on(self, slots: int) -> BitsDependOn:
        """What the bits of a clip depend on beside itself in engines of up to so many slots, as the
        device answers it: `run` if it was not asked to be repeatable."""
        if not self._repeatable:
            return "run"
        return bits_depend_on(self._prepared(self._limits(1).n_cells(self.lm.cfg)), slots)

    @property
    def slot_bytes(self) -> int:
        """Bytes of the caches of one slot, with room for the longest text."""
        limits = self._limits(1)
        return ROWS_PER_SLOT * row_bytes(
            self.lm.cfg,
            self.dtype,
            window_frames=limits.max_frames,
            max_text_tokens=limits.max_text_tokens,
            max_audio_frames=limits.max_audio_frames,
            longest_text=True,
        )

    def _limits(self, slots: int) -> Limits:
        style = self._requests.style
        return Limits(
            ROWS_PER_SLOT * slots,
            self._requests.max_frames,
            self.text_encoder.max_tokens,
            self.lm.cfg.max_audio_frames if style is None else style.max_frames,
        )

    def _prepared(self, n_cells: int) -> StepWeights:
        """The engine's weights, made once; with more positions if the style prefix has grown."""
        if self._weights is None:
            self._weights = prepare(self.lm, self.dtype, n_cells, device=self.device)
            if not self._keep_lm:
                drop_weights(self.lm)
        if len(self._weights.positions) < n_cells:
            positions = sinusoid(torch.arange(n_cells, device=self.device), self.lm.cfg.dim)
            self._weights = replace(self._weights, positions=positions)
        return self._weights

    def beside_the_engine(self, work: Beside) -> AbstractContextManager[None]:
        """A context for such work in a thread other than the engine's.

        On a GPU it runs on a stream of its own of low priority, so that it does not wait for decode
        steps, nor they for it. A request says by an event when its conditions are there, and audio
        is complete when `decode` returns it.
        """
        return self._streams[work].running()

    def make_request(self, clip: GenerationRequest) -> Request:
        """Encodes the inputs of one clip; the result is what `Engine.submit` takes.

        Raises:
            ValueError: This clip can't be made; the message says why and what would help.
        """
        return self._requests.make(clip)

    def melody_chroma(
        self,
        wav: Tensor,
        sample_rate_hz: int,
        *,
        n_frames: int = 1,
        n_prompt: int = 0,
        extend_stride_s: float | None = None,
    ) -> Tensor:
        """The chromagram of a melody: the loudest pitch class of each frame.

        Args:
            wav: The melody [C, N].
            sample_rate_hz: Its sample rate.
            n_frames: Length of the clip that will follow it, in frames.
            n_prompt: Frames of that clip that a continuation prompt gives.
            extend_stride_s: As in `GenerationRequest`.

        Returns:
            Pitch classes int64 [n]; for a clip longer than one window [windows, n], one row for
            the part of the melody under each window.

        Raises:
            ValueError: The model takes no melody, or the audio is empty or not finite.
        """
        if self.chroma is None:
            raise WrongModelError(
                f"model {self.name!r} takes no melody; use a melody model (e.g. facebook/"
                "musicgen-melody) or leave the melody out"
            )
        wav, window = wav.detach().cpu(), self._requests.max_frames
        if n_frames <= window:
            return self.chroma(wav, sample_rate_hz)
        stride = stride_frames(self.info.stride_s(extend_stride_s), self.frame_rate, window)
        return self.chroma.windows(
            wav,
            sample_rate_hz,
            plan_windows(n_frames, window=window, stride=stride, n_prompt=n_prompt),
            frame_rate_hz=self.frame_rate,
            window_frames=window,
        )

    def own_audio(self, wav: Tensor, sample_rate_hz: int) -> Tensor:
        """`wav` [C, N] resampled and mixed to the model's sample rate and channels."""
        return convert_audio(wav, sample_rate_hz, self.sample_rate, self.audio_channels)

    def decode(self, codes: Tensor, piece_frames: int | None = None) -> Tensor:
        """Audio [C, T·hop] in float32 on the CPU of one clip's codes [K, T].

        `piece_frames`: as in `CompressionModel.decode`.
        """
        on_device = codes[None].to(self.device)
        wav = self.compression_model.decode(on_device, piece_frames=piece_frames)  # [1, C, N]
        return wav[0].float().cpu()

    def generate_audio(self, gen_tokens: Tensor) -> Tensor:
        """Audio [B, C, T·hop] of the codes [B, K, T] that `return_tokens=True` gives."""
        if gen_tokens.ndim != 3:
            raise ArgumentError(f"codes are [B, K, T], got {list(gen_tokens.shape)}")
        return torch.stack([self.decode(codes) for codes in gen_tokens])

    def _frames(self, duration_s: float) -> int:
        if not 0 < duration_s <= LONGEST_S:
            raise ValueError(f"duration={duration_s} s lies outside 0 … {LONGEST_S:g} s")
        return n_frames(round(duration_s * 1_000_000), self.frame_rate)
