"""Turns the description of one clip into a request to the engine.

Text, melody, style and the audio to continue are encoded here: the engine sees vectors and codes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from musicgen.audio import to_channels
from musicgen.checkpoints.describe import ModelInfo
from musicgen.codec.codec import CompressionModel
from musicgen.conditioning.chroma import tile
from musicgen.conditioning.fuser import ClipConditions
from musicgen.conditioning.style import StyleConditioner, excerpt_start
from musicgen.conditioning.text import TextEncoder
from musicgen.config import ArgumentError, SamplingParams
from musicgen.engine.cuda import mark
from musicgen.engine.engine import Request
from musicgen.engine.request import WindowStart
from musicgen.lm.model import LMModel
from musicgen.windows import Window, plan_windows, stride_frames

MAX_SEED = 2**63 - 1

PitchClasses = Sequence[int] | Sequence[Sequence[int]] | Tensor


def draw_seeds(n: int) -> list[int]:
    """Seeds from torch's global generator, which `torch.manual_seed` sets."""
    return [int(seed) for seed in torch.randint(MAX_SEED, (n,))]


@dataclass(frozen=True, eq=False)
class GenerationRequest:
    """One clip in the caller's terms.

    Attributes:
        key: Names the clip in the engine's output.
        prompt: Text; None and "" are no text.
        n_frames: Length of the clip in frames, its continuation prompt included.
        seed: 0 … 2^63 - 1.
        sampling: How tokens are chosen and guided.
        melody_chroma: For a melody model, pitch classes as `LoadedModel.melody_chroma` gives them:
            [n], or [windows, n] for a clip longer than one window.
        style: For a style model, audio [C, N] at the model's sample rate.
        continuation: Audio [C, N] at the model's sample rate that the clip begins with.
        extend_stride_s: Seconds between the beginnings of two windows, for a clip longer than one;
            None takes the model's default (`ModelInfo.default_stride_s`).
    """

    key: str
    prompt: str | None
    n_frames: int
    seed: int
    sampling: SamplingParams
    melody_chroma: PitchClasses | None = None
    style: Tensor | None = None
    continuation: Tensor | None = None
    extend_stride_s: float | None = None


class RequestBuilder:
    """Makes requests for one model, each clip on its own: no clip is padded to another's length.

    Args:
        info: The model.
        lm: Its language model, which holds the projections of the conditions.
        text_encoder: Its T5.
        codec: Its EnCodec.
        style_features: Its feature extractor for styles (MERT or EnCodec). Without it a style model
            makes only clips without a style.

    Attributes:
        style: Parameters of the style conditioner for the next requests; None: the model has none.
        max_frames: Frames of one window at most.
        conditioners: The projections of the conditions by name, `description` and `self_wav`.
    """

    def __init__(
        self,
        info: ModelInfo,
        lm: LMModel,
        text_encoder: TextEncoder,
        codec: CompressionModel,
        style_features: nn.Module | None = None,
    ) -> None:
        self.info = info
        self.dim = lm.cfg.dim
        self._lm_cfg = lm.cfg
        self.text_encoder = text_encoder
        self.codec = codec
        self.style_features = style_features
        self.style = lm.cfg.style
        self.max_frames = round(info.max_duration_s * info.frame_rate_hz)
        self.conditioners = lm.condition_provider.conditioners

    @property
    def device(self) -> torch.device:
        """The device on which conditions are computed."""
        device: torch.device = self.text_encoder.model.device
        return device

    @torch.no_grad()
    def make(self, clip: GenerationRequest) -> Request:
        """The engine's request for one clip; see `LoadedModel.make_request`."""
        if clip.n_frames < 1:
            raise ValueError(
                f"a clip has at least one frame, not {clip.n_frames}; raise the duration"
            )
        if not 0 <= clip.seed <= MAX_SEED:
            raise ValueError(f"seed={clip.seed} lies outside 0 … 2^63 - 1")
        opening = None
        if clip.continuation is not None:
            opening = self._opening(clip.continuation, clip.n_frames)
        windows = self._windows(clip, opening)
        conditions = self._conditions(clip, windows)
        same = len(windows) == 1 or (clip.melody_chroma is None and clip.style is None)
        if clip.style is not None:  # encoded here and not by the engine's thread, which decodes
            conditions = [conditions(window) for window in range(len(windows))].__getitem__
        first = windows[0]
        return Request(
            key=clip.key,
            conditions=conditions(0),
            n_frames=clip.n_frames,
            seed=clip.seed,
            sampling=clip.sampling,
            prompt_codes=opening,
            windows=windows,
            later_conditions=None if same else conditions,
            start=WindowStart.of(self._lm_cfg, clip.seed, first, opening, self.device),
            ready=mark(self.device),
        )

    def _windows(self, clip: GenerationRequest, opening: Tensor | None) -> tuple[Window, ...]:
        stride = None
        if clip.n_frames > self.max_frames:
            stride_s = self.info.stride_s(clip.extend_stride_s)
            stride = stride_frames(stride_s, self.info.frame_rate_hz, self.max_frames)
        n_prompt = 0 if opening is None else opening.shape[-1]
        return plan_windows(clip.n_frames, window=self.max_frames, stride=stride, n_prompt=n_prompt)

    def _conditions(
        self, clip: GenerationRequest, windows: tuple[Window, ...]
    ) -> Callable[[int], ClipConditions]:
        """The function from a window's index to its conditions. All inputs are checked first."""
        style = clip.style
        text = self._text(clip.prompt)  # [L, D]
        if self.info.kind == "melody":
            null = self._melody(torch.zeros(1, dtype=torch.long))
            chroma = clip.melody_chroma
            melody = None if chroma is None else self._per_window(chroma, windows)
        elif clip.melody_chroma is not None:
            raise ValueError(f"model {self.info.name!r} takes no melody; leave the melody out")
        if style is not None:
            self._check_style(style)

        @torch.no_grad()
        def conditions(window: int) -> ClipConditions:
            if self.info.kind == "melody":
                audio = None if melody is None else self._melody(melody[window])
                return ClipConditions(text, audio, null)
            if self.info.kind == "text":
                return ClipConditions(text)
            if style is None:
                return ClipConditions(text, None, torch.zeros(1, self.dim, device=self.device))
            audio = self._style(style, clip.seed, window)
            return ClipConditions(text, audio, torch.zeros_like(audio))

        return conditions

    def _text(self, prompt: str | None) -> Tensor:
        hidden = self.text_encoder.encode(prompt)  # [L, text_dim]
        if hidden is None:  # no text is exactly zero, without the projection's bias
            return torch.zeros(1, self.dim, device=self.device)
        return self._project("description", hidden)  # [L, D]

    def _per_window(self, chroma: PitchClasses, windows: tuple[Window, ...]) -> Tensor:
        """Pitch classes of every window, checked: int64 [windows, n]."""
        assert self.info.chroma is not None
        n_chroma = self.info.chroma.n_chroma
        index = torch.as_tensor(chroma, dtype=torch.long)
        index = index[None] if index.ndim == 1 else index
        if index.ndim != 2 or 0 in index.shape or index.min() < 0 or index.max() >= n_chroma:
            raise ValueError(f"a melody is a row of pitch classes 0 … {n_chroma - 1}, not empty")
        if len(index) != len(windows):
            raise ValueError(
                f"the clip is made in {len(windows)} windows, its melody has {len(index)} rows of "
                "pitch classes; read it with one row per window (ChromaExtractor.windows)"
            )
        return index

    def _melody(self, index: Tensor) -> Tensor:
        """The prefix [P, D] of pitch classes [n]; [0] stands for no melody."""
        assert self.info.chroma is not None
        n_chroma, length = self.info.chroma.n_chroma, self.info.chroma.chroma_length
        one_hot = F.one_hot(tile(index.to(self.device), length), n_chroma).float()  # [P, n_chroma]
        return self._project("self_wav", one_hot)  # [P, D]

    def _project(self, condition: str, values: Tensor) -> Tensor:
        projected: Tensor = self.conditioners[condition].get_submodule("output_proj")(values)
        return projected

    def _check_style(self, wav: Tensor) -> None:
        if self.style is None:
            raise ValueError(
                f"model {self.info.name!r} reads no style; use a style model (facebook/"
                "musicgen-style) or leave the style out"
            )
        if self.style_features is None:
            raise ValueError(
                f"model {self.info.name!r} came without {self.style.features_name}, which hears "
                "the style; load it with style_encoder=<folder or hub id>, or convert the model to "
                "a self-contained folder"
            )
        if wav.ndim != 2 or 0 in wav.shape or not wav.isfinite().all():
            raise ValueError(f"a style is finite audio [channels, samples], got {list(wav.shape)}")
        rate_hz, wanted_s = self.info.sample_rate_hz, self.style.excerpt_length_s
        if wav.shape[-1] < int(wanted_s * rate_hz):
            raise ValueError(
                f"the style's audio is {wav.shape[-1] / rate_hz:g} s long and an excerpt of "
                f"{wanted_s:g} s is read from it; give longer audio or lower excerpt_length"
            )

    def _style(self, wav: Tensor, seed: int, window: int) -> Tensor:
        """The prefix [P, D] of the excerpt of `wav` [C, N] that the seed chooses for a window."""
        assert self.style is not None
        assert self.style_features is not None
        conditioner = self.conditioners["self_wav"]
        assert isinstance(conditioner, StyleConditioner)
        n_excerpt = int(self.style.excerpt_length_s * self.info.sample_rate_hz)
        start = excerpt_start(seed, window, wav.shape[-1], n_excerpt)
        excerpt = wav[:, start : start + n_excerpt].float().to(self.device)  # [C, n]
        features = self.style_features(excerpt, self.info.sample_rate_hz)
        prefix: Tensor = conditioner(features, self.style)  # [P, D]
        return prefix

    def _opening(self, wav: Tensor, n_frames: int) -> Tensor:
        """Codes [K, T0] of the audio that a clip begins with."""
        if wav.ndim != 2 or wav.shape[-1] == 0 or not wav.isfinite().all():
            raise ValueError(
                f"a continuation is finite audio [channels, samples], got {list(wav.shape)}"
            )
        n_prompt = -(-wav.shape[-1] // self.info.hop_samples)
        if n_prompt >= n_frames:
            raise ArgumentError(
                f"the continuation's prompt is {wav.shape[-1] / self.info.sample_rate_hz:g} s long "
                f"and the clip, prompt included, {n_frames / self.info.frame_rate_hz:g} s; raise "
                "the duration or shorten the prompt"
            )
        wav = to_channels(wav, self.info.channels).float().to(self.device)
        codes, _ = self.codec.encode(wav[None])  # [1, K, T0]
        return codes[0].cpu()
