"""The text encoder: T5 in fp32, run once per distinct prompt at the prompt's exact length."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from musicgen.conditioning.t5 import T5Encoder

if TYPE_CHECKING:
    from transformers import T5EncoderModel

MAX_TOKENS = 512  # far above any prompt of the training; bounds the caches of the engine
CACHED_PROMPTS = 256


class TextEncoder(nn.Module):
    """T5 and its tokenizer.

    Prompts are never padded to each other's length and never cut, so a prompt's states depend on
    nothing else.

    Args:
        model: The T5 encoder, with its weights: our own, or transformers'.
        tokenizer: A function from a string to an object with `input_ids`.
        max_tokens: Longer prompts are refused.
    """

    def __init__(
        self,
        model: "T5Encoder | T5EncoderModel",
        tokenizer: Callable[[str], Any],
        max_tokens: int = MAX_TOKENS,
    ) -> None:
        super().__init__()
        self.model = T5Encoder.of(model).eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self._cached = lru_cache(CACHED_PROMPTS)(self._encode)

    @contextmanager
    def room_for(self, prompts: Sequence[str | None]) -> Iterator[bool]:
        """Within this context none of `prompts` is too long. The value says whether one of them
        would be: then it is for engines with more room than those of a job."""
        usual = self.max_tokens
        longest = max(len(self.tokenizer(text).input_ids) if text else 1 for text in prompts)
        self.max_tokens = max(usual, longest)
        try:
            yield longest > usual
        finally:
            self.max_tokens = usual

    @property
    def dim(self) -> int:
        """Width of the hidden states."""
        return int(self.model.config.d_model)

    def encode(self, prompt: str | None) -> Tensor | None:
        """Hidden states [L, text_dim] of `prompt`; None where there is no text (None or "").

        A single blank is text, as in AudioCraft.

        Raises:
            ValueError: The prompt has more than `max_tokens` tokens.
        """
        if not prompt:
            return None
        ids = tuple(self.tokenizer(prompt).input_ids)
        if len(ids) > self.max_tokens:
            raise ValueError(
                f"prompt has {len(ids)} tokens, limit {self.max_tokens}; shorten it "
                f"(it begins {prompt[:40]!r})"
            )
        return self._cached(ids)

    @torch.no_grad()
    def _encode(self, ids: tuple[int, ...]) -> Tensor:
        batch = torch.tensor([ids], device=self.model.device)  # [1, L]
        hidden: Tensor = self.model(batch)
        return hidden[0]  # [L, text_dim]
