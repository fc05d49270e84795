"""Trains the language model and its T5 on tokens, with the loss that `LMModel` offers.

The key is what text alone teaches least: a piece names it once, and a few notes into it the music
says it too. So a share of the pieces has nothing but text, and the loss weighs most where pitches
are chosen: the first codebook, the beginning of notes, the first second.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from musicgen.conditioning.fuser import RowCondition
from musicgen.config import LMConfig
from musicgen.lm import LMModel
from musicgen.tiny.measures import chroma_config
from musicgen.tiny.pieces import rng_of
from musicgen.tiny.recipe import LanguageRecipe, Recipe, Stage
from musicgen.tiny.schedule import cosine
from musicgen.tiny.synth import FRAME_RATE_HZ
from musicgen.tiny.tokens import Tokens
from musicgen.tiny.vocabulary import make_tokenizer

LOG_EVERY = 250
STREAM = 21  # of random numbers
TEST_ROWS, TEST_BATCH = 48, 24
CROP_STEP, CHROMA_STEP = 32, 5  # frames, and frames of the chroma: the same 0.64 s
FIRST_NOTE = 3  # frames of codebook 0 that tell whether the key is known

# What the model is told when held-out losses are measured: text, melody.
VIEWS = {
    "both": (True, True),
    "text": (True, False),
    "melody": (False, True),
    "none": (False, False),
}


@dataclass(frozen=True)
class Language:
    """What comes out: the language model, its T5, and what cuts captions into tokens."""

    lm: LMModel
    text: T5EncoderModel
    tokenizer: PreTrainedTokenizerFast


def t5_config(recipe: LanguageRecipe, vocabulary: int) -> T5Config:
    """The text encoder's shape."""
    return T5Config(
        vocab_size=vocabulary,
        d_model=recipe.text_dim,
        d_kv=recipe.text_dim // 4,
        d_ff=2 * recipe.text_dim,
        num_layers=recipe.text_layers,
        num_heads=4,
        dropout_rate=0.0,
    )


def lm_config(recipe: Recipe) -> LMConfig:
    """The language model's shape."""
    settings = recipe.language
    return LMConfig(
        dim=settings.dim,
        n_heads=settings.n_heads,
        n_layers=settings.n_layers,
        ffn_dim=settings.ffn_dim,
        n_codebooks=recipe.codec.n_codebooks,
        card=recipe.codec.card,
        delays=tuple(range(recipe.codec.n_codebooks)),
        text_dim=settings.text_dim,
        fuse="prepend",
        chroma=chroma_config(recipe.max_duration_s),
    )


def new_language(recipe: Recipe) -> Language:
    """Untrained; embeddings as loud as positions, branches that begin quietly."""
    torch.manual_seed(recipe.seed)
    tokenizer = make_tokenizer()
    text = T5EncoderModel(t5_config(recipe.language, len(tokenizer)))
    lm = LMModel(lm_config(recipe))
    tables: Any = lm.emb
    layers: Any = lm.transformer.layers
    with torch.no_grad():
        for table in tables:
            nn.init.normal_(table.weight, std=0.4)
        for layer in layers:
            layer.self_attn.attend = plain_attention
            for branch in (layer.self_attn.out_proj, layer.linear2):
                branch.weight.mul_((2 * recipe.language.n_layers) ** -0.5)
    return Language(lm, text, tokenizer)


def train_language(recipe: Recipe, train: Tokens, test: Tokens, folder: Path) -> Language:
    """The trained models, with averaged weights; goes on where an earlier run stopped."""
    settings = recipe.language
    stage = Stage(folder, "language", settings.minutes, settings.max_steps)
    training = LanguageTraining(new_language(recipe), recipe)
    if (state := stage.load()) is not None:
        training.load(state)
    texts = training.tokenise(train.captions)
    while not stage.finished and stage.progress < 1:
        loss = training.step(train, texts, stage)
        stage.step += 1
        if stage.step % LOG_EVERY == 0:
            stage.log(loss=loss)
        if stage.due():
            stage.log(**training.evaluate(test))
            stage.save(training.state())
    if not stage.finished:
        stage.log(**training.evaluate(test))
        stage.save(training.state(), finished=True)
    return training.averaged()


@dataclass(frozen=True)
class Batch:
    """Rows of one step: indices, which frames of each, and which conditions each keeps."""

    rows: Tensor  # [B]
    first: Tensor  # [B], multiples of CROP_STEP
    n_frames: int
    text: Tensor  # bool [B]
    melody: Tensor  # bool [B]


class LanguageTraining:
    """Models, optimiser and averaged weights."""

    def __init__(self, language: Language, recipe: Recipe) -> None:
        self.language, self.recipe = language, recipe
        self.settings = recipe.language
        self.models = nn.ModuleDict({"lm": language.lm, "text": language.text}).train()
        self.parameters = list(self.models.parameters())
        self.average = [parameter.detach().clone() for parameter in self.parameters]
        matrices = [p for p in self.parameters if p.ndim > 1]
        others = [p for p in self.parameters if p.ndim <= 1]
        self.optimiser = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": self.settings.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=self.settings.learning_rate,
            betas=(0.9, 0.95),
        )

    def state(self) -> dict[str, Any]:
        """What `load` takes."""
        return {
            "models": self.models.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "average": self.average,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Goes back to a state."""
        self.models.load_state_dict(state["models"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.average = state["average"]

    def averaged(self) -> Language:
        """The models with averaged weights, ready for use."""
        self._swap()
        self.models.eval().requires_grad_(False)
        return self.language

    def tokenise(self, captions: list[str]) -> list[Tensor]:
        """Token ids [L] of each caption."""
        return [torch.tensor(ids) for ids in self.language.tokenizer(captions).input_ids]

    def step(self, tokens: Tokens, texts: list[Tensor], stage: Stage) -> float:
        """One step; returns its loss."""
        warm = min(1.0, (stage.step + 1) / self.settings.warm_up_steps)
        for group in self.optimiser.param_groups:
            group["lr"] = self.settings.learning_rate * warm * cosine(stage.progress)
        batch = draw(self.recipe, len(tokens), stage.step, stage.progress)
        losses = self._losses(tokens, texts, batch, self._weights(tokens, batch))  # [K]
        scale = torch.tensor(self.settings.codebook_weights)
        loss = (losses * scale).sum() / scale.sum()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimiser.step()
        with torch.no_grad():  # young averages forget their start sooner
            factor = min(self.settings.average, (stage.step + 1) / (stage.step + 10))
            for mean, parameter in zip(self.average, self.parameters, strict=True):
                mean.lerp_(parameter, 1 - factor)
        return float(loss.detach())

    def _weights(self, tokens: Tokens, batch: Batch) -> Tensor:
        """How much each frame counts: float [B, K, T]."""
        onsets = cut(tokens.onsets[batch.rows], batch.first, batch.n_frames).float()  # [B, T]
        weights = 1 + (self.settings.onset_weight - 1) * onsets
        opening = torch.arange(batch.n_frames) < FRAME_RATE_HZ
        from_text = batch.text & ~batch.melody & (batch.first == 0)  # [B]
        boosted = opening & from_text[:, None]  # [B, T]
        weights = torch.where(boosted, self.settings.opening_weight * weights, weights)
        return weights[:, None].expand(-1, self.recipe.codec.n_codebooks, -1)

    def _losses(
        self, tokens: Tokens, texts: list[Tensor], batch: Batch, weights: Tensor | None
    ) -> Tensor:
        codes = cut(tokens.codes[batch.rows], batch.first, batch.n_frames)  # [B, K, T]
        with torch.autocast("cpu", torch.bfloat16, self.recipe.autocast):
            conditions = self._conditions(tokens, texts, batch)
            return self.language.lm.compute_loss(codes, conditions, weights).per_codebook

    def _conditions(self, tokens: Tokens, texts: list[Tensor], batch: Batch) -> list[RowCondition]:
        """As the engine lays them out: melody, then text at its own length, zeros for none."""
        lm = self.language.lm
        assert lm.cfg.chroma is not None
        conditioners: Any = lm.condition_provider.conditioners
        ids = nn.utils.rnn.pad_sequence([texts[row] for row in batch.rows], batch_first=True)
        lengths = torch.tensor([len(texts[row]) for row in batch.rows])
        mask = torch.arange(ids.shape[1]) < lengths[:, None]  # [B, L]
        hidden = self.language.text(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        words = conditioners["description"].output_proj(hidden)  # [B, L, D]
        words = words * batch.text[:, None, None]
        chroma = tokens.chroma[batch.rows]  # [B, n]
        chroma = cut(chroma, batch.first // CROP_STEP * CHROMA_STEP, chroma.shape[-1])
        classes = chroma * batch.melody[:, None]  # class 0 is "no melody"
        heard = F.one_hot(classes, lm.cfg.chroma.n_chroma).float()
        melody = conditioners["self_wav"].output_proj(heard)  # [B, n, D]
        return [
            RowCondition(prefix=torch.cat([tune, said[:length]]))
            for tune, said, length in zip(melody, words, lengths.tolist(), strict=True)
        ]

    @torch.no_grad()
    def evaluate(self, test: Tokens) -> dict[str, Any]:
        """Held-out losses in nats of each codebook, by what the model is told.

        `first_note` is that of codebook 0 where a first pitch is chosen, told the text alone.
        """
        texts = self.tokenise(test.captions)
        self._swap()
        found: dict[str, Any] = {}
        for view, (text, melody) in VIEWS.items():
            batches = list(_test_batches(min(len(test), TEST_ROWS), test, text, melody))
            losses = torch.stack([self._losses(test, texts, b, None) for b in batches])  # [n, K]
            found[view] = [round(float(x), 3) for x in losses.mean(dim=0)]
            if view == "text":
                first = torch.zeros(1, self.recipe.codec.n_codebooks, test.codes.shape[-1])
                first[:, 0, :FIRST_NOTE] = 1
                notes = [
                    self._losses(test, texts, b, first.expand(len(b.rows), -1, -1))[0]
                    for b in batches
                ]
                found["first_note"] = float(torch.stack(notes).mean())
        self._swap()
        return found

    @torch.no_grad()
    def _swap(self) -> None:
        """Exchanges the weights and their averages."""
        for parameter, mean in zip(self.parameters, self.average, strict=True):
            kept = parameter.detach().clone()
            parameter.copy_(mean)
            mean.copy_(kept)


def draw(recipe: Recipe, n_pieces: int, step: int, progress: float) -> Batch:
    """The rows of one step and what each is told; the same for the same step."""
    settings, rng = recipe.language, rng_of(recipe.seed, STREAM, step)
    n_frames = recipe.max_duration_s * FRAME_RATE_HZ
    if progress < settings.full_from or rng.random() < 0.5:
        n_frames = min(n_frames, settings.crop_frames)
    n_rows = max(1, settings.frames_per_batch // n_frames)
    latest = (recipe.max_duration_s * FRAME_RATE_HZ - n_frames) // CROP_STEP
    inside = rng.random(n_rows) < settings.p_inside
    first = CROP_STEP * inside * rng.integers(0, latest + 1, n_rows)
    rows = torch.from_numpy(rng.integers(0, n_pieces, n_rows))
    text_only = rng.random(n_rows) < settings.p_text_only
    text = text_only | (rng.random(n_rows) < settings.p_text)
    melody = ~text_only & (rng.random(n_rows) < settings.p_melody)
    start = torch.from_numpy(first)
    return Batch(rows, start, n_frames, torch.from_numpy(text), torch.from_numpy(melody))


def _test_batches(n_rows: int, test: Tokens, text: bool, melody: bool) -> Iterator[Batch]:
    for start in range(0, n_rows, TEST_BATCH):
        rows = torch.arange(start, min(start + TEST_BATCH, n_rows))
        told = [torch.full((len(rows),), keeps) for keeps in (text, melody)]
        yield Batch(rows, torch.zeros_like(rows), test.codes.shape[-1], *told)


def cut(x: Tensor, first: Tensor, n: int) -> Tensor:
    """From `x` [B, …, T] the `n` entries from `first` [B] on; what ends before begins again."""
    index = (first[:, None] + torch.arange(n)) % x.shape[-1]  # [B, n]
    index = index.view(len(x), *[1] * (x.ndim - 2), n).expand(*x.shape[:-1], n)
    return x.gather(-1, index)


def plain_attention(
    q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, is_causal: bool = True
) -> Tensor:
    """Causal attention [B, H, S, D / H] by products and a softmax: a quarter faster to train in
    bf16 on a CPU than the fused one."""
    assert is_causal
    assert attn_mask is None
    n_steps = q.shape[-2]
    future = torch.full((n_steps, n_steps), -torch.inf, dtype=q.dtype).triu(1)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2) + future  # [B, H, S, S]
    out: Tensor = scores.softmax(dim=-1).to(v.dtype) @ v
    return out
