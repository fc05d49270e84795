"""The heads that hear the melody from the first step on."""

from dataclasses import replace

import torch
from torch import Tensor

from musicgen.modules.transformer import sinusoid
from musicgen.tiny.training.recipe import Recipe
from musicgen.tiny.training.untrained import AHEAD_FRAMES, TEXT_TOKENS, new_language


def test_untrained_heads_look_at_the_frame_of_the_melody_that_a_step_needs() -> None:
    language = new_language(replace(Recipe(), autocast=False))
    cfg = language.lm.cfg
    assert cfg.chroma is not None
    n_melody = cfg.chroma.chroma_length
    n_prefix, n_steps = n_melody + round(TEXT_TOKENS), 500
    layers = language.lm.transformer.layers
    attention = layers[0].self_attn
    seen: list[Tensor] = []

    def spy(
        q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, is_causal: bool = True
    ) -> Tensor:
        seen.append((q @ k.transpose(-1, -2))[0, :, n_prefix:, :n_melody].argmax(dim=-1))
        return v

    attention.attend = spy
    generator = torch.Generator().manual_seed(0)
    sound = 0.3 * torch.randn(1, n_prefix + n_steps, cfg.dim, generator=generator)
    positions = sinusoid(torch.arange(n_prefix + n_steps), cfg.dim)
    with torch.no_grad():
        attention(layers[0].norm1(sound + positions))
    for head, ahead in enumerate(AHEAD_FRAMES):
        wanted = (torch.arange(n_steps) + ahead) / 7
        off = (seen[0][head] - wanted.clamp(max=n_melody - 1)).abs()
        assert off.median() <= 0.5, head
        assert (off <= 1.5).float().mean() > 0.95, head
