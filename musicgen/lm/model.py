"""The language model: embeddings, transformer and heads over K delayed codebooks.

`forward` is the reference implementation: teacher-forced, differentiable, without a cache. The
engine runs the same weights one step at a time; tests compare the two.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from musicgen.conditioning.fuser import ClipConditions, RowCondition
from musicgen.conditioning.style import StyleConditioner
from musicgen.config import LMConfig, SamplingParams
from musicgen.lm.delay_pattern import UNKNOWN, build, open_sequence, revert
from musicgen.lm.guidance import RowGuidance, guidance_rows, mix
from musicgen.lm.pattern_providers import DelayedPatternProvider
from musicgen.lm.sampling import FilterShape, RowSampling, choose, uniform
from musicgen.modules.transformer import Transformer


class ConditionProjection(nn.Module):
    """Projects one kind of condition to the model width."""

    def __init__(self, in_dim: int, dim: int) -> None:
        super().__init__()
        self.output_proj = nn.Linear(in_dim, dim)


class ConditionProvider(nn.Module):
    """The projections of text (`description`) and of melody or style (`self_wav`)."""

    def __init__(self, cfg: LMConfig) -> None:
        super().__init__()
        self.conditioners = nn.ModuleDict()
        self.conditioners["description"] = ConditionProjection(cfg.text_dim, cfg.dim)
        if cfg.chroma is not None:
            self.conditioners["self_wav"] = ConditionProjection(cfg.chroma.n_chroma, cfg.dim)
        elif cfg.style is not None:
            self.conditioners["self_wav"] = StyleConditioner(cfg.style, cfg.dim)


class LMLoss(NamedTuple):
    """Mean loss over the codebooks, to call `backward` on, and the loss of each [K]."""

    loss: Tensor
    per_codebook: Tensor


class LMModel(nn.Module):
    """MusicGen's language model; parameter names are AudioCraft's.

    The attribute `int8` says whether its matrices are rounded to int8 (`musicgen.lm.int8`).
    """

    def __init__(self, cfg: LMConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.int8 = False
        self.condition_provider = ConditionProvider(cfg)
        self.emb = nn.ModuleList(
            nn.Embedding(cfg.card + 1, cfg.dim) for _ in range(cfg.n_codebooks)
        )
        self.transformer = Transformer(
            cfg.dim, cfg.n_heads, cfg.n_layers, cfg.ffn_dim, cross=cfg.fuse == "cross"
        )
        self.out_norm = nn.LayerNorm(cfg.dim)
        self.linears = nn.ModuleList(
            nn.Linear(cfg.dim, cfg.card, bias=False) for _ in range(cfg.n_codebooks)
        )

    @property
    def n_q(self) -> int:
        """Codebooks K; also `num_codebooks`."""
        return self.cfg.n_codebooks

    @property
    def num_codebooks(self) -> int:
        """Codebooks K."""
        return self.cfg.n_codebooks

    @property
    def card(self) -> int:
        """Tokens per codebook."""
        return self.cfg.card

    @property
    def special_token_id(self) -> int:
        """The token where the delay pattern holds no frame."""
        return self.cfg.special_token

    @property
    def pattern_provider(self) -> DelayedPatternProvider:
        """The layout of the codebooks over the steps."""
        return DelayedPatternProvider(self.cfg.n_codebooks, list(self.cfg.delays))

    def forward(self, sequence: Tensor, conditions: list[RowCondition]) -> Tensor:
        """Teacher-forced logits of a delayed sequence.

        Args:
            sequence: Tokens [B, K, S] with the special token where the pattern holds no frame.
            conditions: One per row; lengths may differ, rows never see each other's padding.

        Returns:
            Logits [B, K, S, card]; step s predicts step s + 1.
        """
        n_steps = sequence.shape[-1]
        tokens = torch.stack([emb(sequence[:, k]) for k, emb in enumerate(self.emb)]).sum(0)
        rows = [
            row if condition.prefix is None else torch.cat([condition.prefix.to(row), row])
            for row, condition in zip(tokens, conditions, strict=True)
        ]  # B times [P + S, D]
        # Padding comes last, where causal attention never reads it.
        x = pad_sequence(rows, batch_first=True)  # [B, max(P) + S, D]
        x = self.transformer(x, *self._memory(conditions, x))
        x = torch.stack(
            [out[len(row) - n_steps : len(row)] for out, row in zip(x, rows, strict=True)]
        )
        x = self.out_norm(x)  # [B, S, D]
        return torch.stack([linear(x) for linear in self.linears], dim=1)  # [B, K, S, card]

    def compute_loss(
        self, codes: Tensor, conditions: list[RowCondition], mask: Tensor | None = None
    ) -> LMLoss:
        """Cross-entropy of `codes` under teacher forcing, as AudioCraft trains.

        The input ends with step T, so the loss of codebook k, which lags by delay_k, covers its
        first T - delay_k frames.

        Args:
            codes: The target [B, K, T], T greater than the largest delay.
            conditions: One per row.
            mask: Weight of each code in the loss, bool or float >= 0: [B, K, T]. None counts all
                equally. The loss of a codebook without any weight is 0.

        Raises:
            ValueError: `codes` has another shape.
        """
        n_frames, delays = codes.shape[-1], self.cfg.delays
        if codes.dim() != 3 or codes.shape[1] != len(delays) or n_frames <= max(delays):
            raise ValueError(
                f"codes {list(codes.shape)} must be [B, {len(delays)}, T > {max(delays)}]"
            )
        sequence = build(codes, delays, self.cfg.special_token)[..., : n_frames + 1]  # [B, K, T+1]
        logits = self(sequence, conditions)  # [B, K, T + 1, card]
        losses = []
        for k, delay in enumerate(delays):
            target = codes[:, k, : n_frames - delay]  # [B, T - delay]
            predicted = logits[:, k, delay:n_frames]  # [B, T - delay, card]
            weights = torch.ones_like(target) if mask is None else mask[:, k, : n_frames - delay]
            counted = weights > 0
            each = F.cross_entropy(
                predicted[counted].float(), target[counted], reduction="none"
            )  # [those that count]
            weights = weights[counted].float()
            losses.append((each * weights).sum() / weights.sum().clamp(min=1e-6))
        per_codebook = torch.stack(losses)  # [K]
        return LMLoss(per_codebook.mean(), per_codebook)

    def _memory(
        self, conditions: list[RowCondition], like: Tensor
    ) -> tuple[Tensor | None, Tensor | None]:
        """Text for cross-attention [B, L, D], and the mask of each row's tokens [B, 1, 1, L]."""
        if self.cfg.fuse != "cross":
            return None, None
        # One zero vector has zero key and value: the row's cross-attention is exactly zero.
        zero = like.new_zeros(1, self.cfg.dim)
        rows = [zero if c.cross is None else c.cross.to(like) for c in conditions]
        lengths = torch.tensor([len(row) for row in rows], device=like.device)
        memory = pad_sequence(rows, batch_first=True)  # [B, L, D]
        seen = torch.arange(memory.shape[1], device=like.device) < lengths[:, None]  # [B, L]
        return memory, seen[:, None, None]

    @torch.no_grad()
    def generate(
        self,
        conditions: ClipConditions,
        n_frames: int,
        *,
        seed: int = 0,
        sampling: SamplingParams | None = None,
        prompt_codes: Tensor | None = None,
        first_frame: int = 0,
    ) -> Tensor:
        """Generates one clip by running `forward` on the whole sequence at every step.

        This loop is slow and exists to check the engine, which chooses the same tokens.

        Args:
            conditions: Text and audio of the clip.
            n_frames: Length T in frames, the prompt included.
            seed: Key of the noise.
            sampling: How tokens are chosen; None takes the defaults.
            prompt_codes: Codes [K, T0] that the clip begins with, or None.
            first_frame: Where a window of a longer clip begins in it.

        Returns:
            Codes int64 [K, T].
        """
        cfg, sampling = self.cfg, sampling or SamplingParams()
        device = self.out_norm.weight.device
        rows = guidance_rows(conditions, cfg.fuse, sampling.guidance)
        n_prompt = 0 if prompt_codes is None else prompt_codes.shape[-1]
        sequence = open_sequence(prompt_codes, n_frames, cfg.delays, cfg.special_token)
        sequence = sequence.to(device)  # [K, S]
        noise = uniform(seed, cfg.n_codebooks, n_frames, first_frame)
        noise = build(noise, cfg.delays, 0).to(device)  # [K, S]
        guidance = RowGuidance.idle(len(rows), device)
        guidance.set(range(len(rows)), sampling)
        filters = RowSampling.idle(len(rows), device)
        filters.set(0, sampling)
        shape = FilterShape.of([sampling])
        for step in range(n_prompt + 1, sequence.shape[-1]):
            fed = sequence[:, :step].expand(len(rows), -1, -1)  # [R, K, step]
            logits = mix(self(fed, rows)[:, :, -1].float(), guidance, len(rows))  # [R, K, card]
            token = choose(logits, filters, noise[:, step].expand(len(rows), -1), shape)  # [R, K]
            known = sequence[:, step]  # [K]
            sequence[:, step] = torch.where(known == UNKNOWN, token[0], known)
        return revert(sequence, cfg.delays, n_frames)
