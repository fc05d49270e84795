"""One clip's wishes become what the engine runs: conditions, length, seed and opening codes."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from musicgen.audio import to_channels
from musicgen.codec import CompressionModel
from musicgen.conditioning.chroma import tile
from musicgen.conditioning.fuser import ClipConditions
from musicgen.conditioning.text import TextEncoder
from musicgen.config import SamplingParams
from musicgen.engine import Request
from musicgen.files import ModelInfo
from musicgen.lm import LMModel

MAX_SEED = 2**63 - 1


class RequestMaker:
    """Makes requests for one model, each clip on its own: no clip is padded to another's length."""

    def __init__(
        self, info: ModelInfo, lm: LMModel, text_encoder: TextEncoder, codec: CompressionModel
    ) -> None:
        self.info = info
        self.dim = lm.cfg.dim
        self.text_encoder = text_encoder
        self.codec = codec
        self.max_frames = round(info.max_duration_s * info.frame_rate_hz)
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
        melody_chroma: Sequence[int] | Tensor | None = None,
        continuation: Tensor | None = None,
    ) -> Request:
        """What the engine needs for one clip; see `MusicGen.make_request`."""
        if not 1 <= n_frames <= self.max_frames:
            raise ValueError(
                f"{n_frames} frames ({n_frames / self.info.frame_rate_hz:g} s) lie outside this "
                f"model's 1 … {self.max_frames} ({self.info.max_duration_s:g} s); change the "
                "duration"
            )
        if not 0 <= seed <= MAX_SEED:
            raise ValueError(f"seed={seed} lies outside 0 … 2^63 - 1")
        if self.info.chroma is None and melody_chroma is not None:
            raise ValueError(f"model {self.info.name!r} takes no melody; leave the melody out")
        return Request(
            key=key,
            conditions=ClipConditions(
                text=self._text(prompt),
                audio=None if melody_chroma is None else self._melody(melody_chroma),
                null_audio=None if self.info.chroma is None else self._melody([0]),
            ),
            n_frames=n_frames,
            seed=seed,
            sampling=sampling,
            prompt_codes=None if continuation is None else self._opening(continuation, n_frames),
        )

    def _text(self, prompt: str | None) -> Tensor:
        hidden = self.text_encoder.encode(prompt)  # [L, text_dim]
        if hidden is None:  # exactly zero: the projection's bias does not leak into "no text"
            return torch.zeros(1, self.dim, device=self.device)
        return self._project("description", hidden)  # [L, D]

    def _melody(self, chroma: Sequence[int] | Tensor) -> Tensor:
        """The prefix [P, D] of a melody given as pitch classes; [0] is "no melody"."""
        assert self.info.chroma is not None
        n_chroma, length = self.info.chroma.n_chroma, self.info.chroma.chroma_length
        index = torch.as_tensor(chroma, dtype=torch.long, device=self.device)  # [n]
        if index.ndim != 1 or not len(index) or index.min() < 0 or index.max() >= n_chroma:
            raise ValueError(f"a melody is a row of pitch classes 0 … {n_chroma - 1}, not empty")
        one_hot = F.one_hot(tile(index, length), n_chroma).float()  # [P, n_chroma]
        return self._project("self_wav", one_hot)  # [P, D]

    def _project(self, condition: str, values: Tensor) -> Tensor:
        projected: Tensor = self._conditioners[condition].get_submodule("output_proj")(values)
        return projected

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
