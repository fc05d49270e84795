"""The peer: transformers' `generate()` as a good user would write it.

The right number format, SDPA attention, inference mode, batches with padded prompts, no more tokens
than the batch's longest clip needs. Clips are cut to their own length afterwards.
"""

from collections.abc import Callable, Sequence
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, MusicgenForConditionalGeneration
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

from musicgen.engine.linear import DTYPES
from tests.bench import machine
from tests.bench.workload import SAMPLING, Clip, Timed, Workload, batches, longest_first

TEXT_TOKENS = 16


class Peer:
    """A loaded model.

    Args:
        folder: Checkpoint.
        dtype: What the whole model computes in, its codec as well.
        slots: Clips per batch.
        threads: Of torch.
        device: Where.
    """

    def __init__(
        self, folder: str, dtype: str, slots: int, threads: int, device: str = "cpu"
    ) -> None:
        torch.set_num_threads(threads)
        self.device, self.dtype, self.slots = device, DTYPES[dtype], slots
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = MusicgenForConditionalGeneration.from_pretrained(folder, dtype=self.dtype)
        self.model = self.model.to(device).eval()
        self.model.decoder.set_attn_implementation("sdpa")  # its default, too
        codec = self.model.config.audio_encoder
        self.rate_hz, self.frame_rate_hz = codec.sampling_rate, codec.frame_rate
        self.delay = self.model.decoder.num_codebooks - 1
        self._decode_s = 0.0
        self.model.audio_encoder.decode = self._timed(self.model.audio_encoder.decode)

    @torch.inference_mode()
    def warm_up(self, frames: int, longest_s: float = 0.0) -> None:
        """A batch, and the codec once on one as long as the longest clip, so that nothing is done
        for the first time when it is timed."""
        n_frames = round(longest_s * self.frame_rate_hz)
        if n_frames:
            shape = (1, self.slots, self.model.decoder.num_codebooks, n_frames)
            codes = torch.zeros(shape, dtype=torch.long, device=self.device)
            self.model.audio_encoder.decode(codes, audio_scales=[None] * self.slots)
        self._batch([Clip(f"warm up {i}", frames / 50, i) for i in range(self.slots)])

    def run(self, workload: dict[str, Any], round: int, order: str = "arrival") -> dict[str, Any]:
        """Batches in order of arrival, or sorted by duration."""
        clips = Workload(**workload).clips(round)
        clips = clips if order == "arrival" else longest_first(clips)
        self._decode_s, audio_s, n_steps = 0.0, 0.0, 0
        started = perf_counter()
        for part in batches(clips, self.slots):
            audio_s += sum(len(wav) for wav in self._batch(part)) / self.rate_hz
            n_steps += max(clip.frames(self.frame_rate_hz) for clip in part) + self.delay
        return Timed(audio_s, perf_counter() - started, self._decode_s, n_steps).told()

    @torch.inference_mode()
    def _batch(self, clips: Sequence[Clip]) -> list[Tensor]:
        """Audio [N] of each clip."""
        inputs = self.tokenizer(
            [clip.prompt for clip in clips], padding=True, return_tensors="pt"
        ).to(self.device)
        frames = [clip.frames(self.frame_rate_hz) for clip in clips]
        torch.manual_seed(clips[0].seed)
        wavs = self.model.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            do_sample=True,
            guidance_scale=SAMPLING.cfg_coef,
            top_k=SAMPLING.top_k,
            max_new_tokens=max(frames) + self.delay,
        )  # [B, C, N]
        hop = self.rate_hz // self.frame_rate_hz
        if wavs.shape[-1] != max(frames) * hop:
            raise RuntimeError(f"{wavs.shape[-1]} samples came for {max(frames)} frames of {hop}")
        return [wav[0, : n * hop].float().cpu() for wav, n in zip(wavs, frames, strict=True)]

    def _timed(self, decode: Callable[..., Any]) -> Callable[..., Any]:
        """The codec's decode with a clock around it."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            machine.wait(self.device)
            started = perf_counter()
            decoded = decode(*args, **kwargs)
            machine.wait(self.device)
            self._decode_s += perf_counter() - started
            return decoded

        return timed

    def steps(self, n_clips: int, lengths: Sequence[int], repeats: int) -> dict[str, float]:
        """Median seconds of one forward by tokens in the cache; guidance's mixing and the sampling,
        which our steps include, come on top of it."""
        return {
            str(n): median(machine.times_s(self._forward(n_clips, n), self.device, repeats))
            for n in lengths
        }

    @torch.inference_mode()
    def _forward(self, n_clips: int, n_tokens: int) -> Callable[[], None]:
        """What feeds a token to rows whose caches hold `n_tokens`, and one more after each call."""
        n_rows, decoder = machine.ROWS_PER_CLIP * n_clips, self.model.decoder
        shape = decoder.config
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        head_dim = shape.hidden_size // shape.num_attention_heads
        for layer in range(shape.num_hidden_layers):
            for part, cells in ((cache.self_attention_cache, n_tokens),
                                (cache.cross_attention_cache, TEXT_TOKENS)):  # fmt: skip
                size = (n_rows, shape.num_attention_heads, cells, head_dim)
                part.update(self._filled(*size), self._filled(*size), layer)
            cache.is_updated[layer] = True
        text = self._filled(n_rows, TEXT_TOKENS, self.model.config.text_encoder.d_model)
        tokens = torch.zeros(n_rows * shape.num_codebooks, 1, dtype=torch.long, device=self.device)

        @torch.inference_mode()
        def forward() -> None:
            self.model(
                encoder_outputs=(text,),
                attention_mask=torch.ones(
                    n_rows, TEXT_TOKENS, dtype=torch.long, device=self.device
                ),
                decoder_input_ids=tokens,
                past_key_values=cache,
                use_cache=True,
            )

        return forward

    def _filled(self, *size: int) -> Tensor:
        return torch.full(size, 0.1, dtype=self.dtype, device=self.device)
