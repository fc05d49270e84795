"""One clip's wishes become what the engine runs: conditions, length, seed and opening codes."""

from collections.abc import Callable, Sequence

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
from musicgen.config import SamplingParams
from musicgen.engine.engine import Request
from musicgen.lm.model import LMModel
from musicgen.windows import Window, plan_windows, stride_frames

MAX_SEED = 2**63 - 1


class RequestBuilder:
    """Makes requests for one model, each clip on its own: no clip is padded to another's length.

    Args:
        info: The model.
        lm: Its language model; the conditions' projections are in it.
        text_encoder: Its T5.
        codec: Its EnCodec.
        style_features: What hears the audio of a style; without it a style model makes clips
            without a style only.
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
        self.text_encoder = text_encoder
        self.codec = codec
        self.style_features = style_features
        self.style = lm.cfg.style  # how styles are read from now on; None: the model reads none
        self.max_frames = round(info.max_duration_s * info.frame_rate_hz)  # of one window
        self._conditioners = lm.condition_provider.conditioners

    @property
    def device(self) -> torch.device:
        """Where the conditions are computed."""
        device: torch.device = self.text_encoder.model.device
        return device

    @torch.no_grad()
    def make(
        self,
        key: str,
        *,
        prompt: str | None,
        n_frames: int,
        seed: int,
        sampling: SamplingParams,
        melody_chroma: Sequence[int] | Sequence[Sequence[int]] | Tensor | None = None,
        style: Tensor | None = None,
        continuation: Tensor | None = None,
        extend_stride_s: float | None = None,
    ) -> Request:
        """What the engine needs for one clip; see `MusicGen.make_request`."""
        if n_frames < 1:
            raise ValueError(f"a clip has at least one frame, not {n_frames}; raise the duration")
        if not 0 <= seed <= MAX_SEED:
            raise ValueError(f"seed={seed} lies outside 0 … 2^63 - 1")
        opening = None if continuation is None else self._opening(continuation, n_frames)
        windows = self._windows(n_frames, opening, extend_stride_s)
        conditions = self._conditions(prompt, melody_chroma, style, seed, windows)
        same = len(windows) == 1 or (melody_chroma is None and style is None)
        if style is not None:  # heard now, beside the decode loop; a window's prefix is small
            conditions = [conditions(window) for window in range(len(windows))].__getitem__
        return Request(
            key=key,
            conditions=conditions(0),
            n_frames=n_frames,
            seed=seed,
            sampling=sampling,
            prompt_codes=opening,
            windows=windows,
            later_conditions=None if same else conditions,
        )

    def _windows(
        self, n_frames: int, opening: Tensor | None, extend_stride_s: float | None
    ) -> tuple[Window, ...]:
        stride = None
        if n_frames > self.max_frames:
            stride = stride_frames(extend_stride_s, self.info.frame_rate_hz, self.max_frames)
        n_prompt = 0 if opening is None else opening.shape[-1]
        return plan_windows(n_frames, window=self.max_frames, stride=stride, n_prompt=n_prompt)

    def _conditions(
        self,
        prompt: str | None,
        melody_chroma: Sequence[int] | Sequence[Sequence[int]] | Tensor | None,
        style: Tensor | None,
        seed: int,
        windows: tuple[Window, ...],
    ) -> Callable[[int], ClipConditions]:
        """What gives the conditions of each window; everything is checked before it is returned."""
        text = self._text(prompt)  # [L, D]
        if self.info.kind == "melody":
            null = self._melody(torch.zeros(1, dtype=torch.long))
            melody = None if melody_chroma is None else self._per_window(melody_chroma, windows)
        elif melody_chroma is not None:
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
            audio = self._style(style, seed, window)
            return ClipConditions(text, audio, torch.zeros_like(audio))

        return conditions

    def _text(self, prompt: str | None) -> Tensor:
        hidden = self.text_encoder.encode(prompt)  # [L, text_dim]
        if hidden is None:  # exactly zero: the projection's bias does not leak into "no text"
            return torch.zeros(1, self.dim, device=self.device)
        return self._project("description", hidden)  # [L, D]

    def _per_window(
        self,
        chroma: Sequence[int] | Sequence[Sequence[int]] | Tensor,
        windows: tuple[Window, ...],
    ) -> Tensor:
        """Pitch classes of every window: [windows, n]."""
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
        """The prefix [P, D] of pitch classes [n]; [0] is "no melody"."""
        assert self.info.chroma is not None
        n_chroma, length = self.info.chroma.n_chroma, self.info.chroma.chroma_length
        one_hot = F.one_hot(tile(index.to(self.device), length), n_chroma).float()  # [P, n_chroma]
        return self._project("self_wav", one_hot)  # [P, D]

    def _project(self, condition: str, values: Tensor) -> Tensor:
        projected: Tensor = self._conditioners[condition].get_submodule("output_proj")(values)
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
        """The prefix [P, D] of the excerpt that the clip's seed chooses for this window."""
        assert self.style is not None
        assert self.style_features is not None
        reader = self._conditioners["self_wav"]
        assert isinstance(reader, StyleConditioner)
        n_excerpt = int(self.style.excerpt_length_s * self.info.sample_rate_hz)
        start = excerpt_start(seed, window, wav.shape[-1], n_excerpt)
        excerpt = wav[:, start : start + n_excerpt].float().to(self.device)  # [C, n]
        features = self.style_features(excerpt, self.info.sample_rate_hz)
        prefix: Tensor = reader(features, self.style)  # [P, D]
        return prefix

    def _opening(self, wav: Tensor, n_frames: int) -> Tensor:
        """Codes [K, T0] of the audio that a clip begins with."""
        if wav.ndim != 2 or wav.shape[-1] == 0 or not wav.isfinite().all():
            raise ValueError(
                f"a continuation is finite audio [channels, samples], got {list(wav.shape)}"
            )
        n_prompt = -(-wav.shape[-1] // self.info.hop_samples)
        if n_prompt >= n_frames:
            raise ValueError(
                f"the continuation's prompt is {wav.shape[-1] / self.info.sample_rate_hz:g} s long "
                f"and the clip, prompt included, {n_frames / self.info.frame_rate_hz:g} s; raise "
                "the duration or shorten the prompt"
            )
        wav = to_channels(wav, self.info.channels).float().to(self.device)
        codes, _ = self.codec.encode(wav[None])  # [1, K, T0]
        return codes[0].cpu()
