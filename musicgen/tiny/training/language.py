"""Trains the language model and its T5 on tokens, with the loss that `LMModel` offers.

The key is hard to learn from text: a caption names it once, and after a few notes the music itself
determines it. So a share of the pieces has text as its only condition, the loss weighs most where
pitches are chosen (the first codebook, the beginning of notes, the first second), and some rows
begin with music of another piece, after which only the text determines the key: the model shall not
continue a wrong key that it has sampled. A short last stage gives most rows the melody.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from musicgen.conditioning.fuser import RowCondition
from musicgen.engine.linear import has_fast_bf16
from musicgen.tiny.training.measures import HOP_FRAMES
from musicgen.tiny.training.pieces import KEYS, rng_of
from musicgen.tiny.training.recipe import Recipe, Stage
from musicgen.tiny.training.schedule import cosine
from musicgen.tiny.training.synth import FRAME_RATE_HZ
from musicgen.tiny.training.tokens import ONSET_FRAMES, Tokens
from musicgen.tiny.training.untrained import Language, new_language

logger = logging.getLogger(__name__)

LOG_EVERY = 250
TEST_ROWS, TEST_BATCH = 48, 24
LEAD_IN = 25  # frames that are given where a row begins within its piece: half a second
# Conditions under which held-out losses are measured: text, melody.
VIEWS = {
    "both": (True, True),
    "text": (True, False),
    "melody": (False, True),
    "none": (False, False),
}


def train_language(recipe: Recipe, train: Tokens, test: Tokens, folder: Path) -> Language:
    """Trains the models, or resumes an interrupted training; returns them with averaged weights."""
    language = new_language(recipe)
    if recipe.autocast and _dtype(recipe) == "fp32":
        logger.warning(
            "this CPU is slow in bf16 (no AVX-512): training in fp32, with far fewer steps in "
            "the same time, so the model will fall short of the bundled one"
        )
    for name, settings in (("language", recipe.language), ("finish", recipe.finish)):
        stage = Stage(folder, name, settings.minutes, settings.max_steps)
        training = LanguageTraining(language, replace(recipe, language=settings))
        language = _train_stage(training, stage, train, test)
    return language


def _train_stage(
    training: "LanguageTraining", stage: Stage, train: Tokens, test: Tokens
) -> Language:
    if (state := stage.load()) is not None:
        training.load(state)
    texts, keyed = training.tokenise(train.captions), name_a_key(train.captions)
    while not stage.finished and stage.progress < 1:
        loss = training.step(train, texts, keyed, stage)
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
    """Rows of one step: indices, which frames of each, and which conditions each keeps.

    The loss leaves out the music of another piece before frame `switch`, and the first frames of a
    row that begins within its piece, possibly in the middle of a note: a later window of a clip is
    given these frames, and no clip should begin like that.
    """

    rows: Tensor  # [B]
    first: Tensor  # [B], frames: multiples of HOP_FRAMES
    n_frames: int
    text: Tensor  # bool [B]
    melody: Tensor  # bool [B]
    empty: Tensor  # bool [B]: without text and as long as an empty prompt, not as its caption
    switch: Tensor  # [B]


class LanguageTraining:
    """Models, optimiser and averaged weights."""

    def __init__(self, language: Language, recipe: Recipe) -> None:
        self.language, self.recipe = language, recipe
        self.settings = recipe.language
        self.dtype = _dtype(recipe)
        self.models = nn.ModuleDict({"lm": language.lm, "text": language.text})
        self.models.train().requires_grad_(True)
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

    def step(self, tokens: Tokens, texts: list[Tensor], keyed: Tensor, stage: Stage) -> float:
        """One step; returns its loss."""
        warm = min(1.0, (stage.step + 1) / self.settings.warm_up_steps)
        for group in self.optimiser.param_groups:
            group["lr"] = self.settings.learning_rate * warm * cosine(stage.progress)
        batch = draw(self.recipe, keyed, stage.step, stage.progress)
        losses = self.losses(tokens, texts, batch, self.weights(tokens, batch))  # [K]
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

    def weights(self, tokens: Tokens, batch: Batch) -> Tensor:
        """The weight of each code in the loss: float [B, K, T]."""
        onsets = cut(tokens.onsets[batch.rows], batch.first, batch.n_frames).float()  # [B, T]
        weights = 1 + (self.settings.onset_weight - 1) * onsets
        age = torch.arange(batch.n_frames) - batch.switch[:, None]  # frames of this piece so far
        begins = (batch.first == 0) | (batch.switch > 0)
        from_text = batch.text & ~batch.melody & begins  # [B]
        opening = (age < FRAME_RATE_HZ) & from_text[:, None]  # [B, T]
        weights = torch.where(opening, self.settings.opening_weight * weights, weights)
        jump = (age >= 0) & (age < ONSET_FRAMES) & (batch.switch > 0)[:, None]
        weights = torch.where(jump, self.settings.jump_weight * weights, weights)
        lead_in = (torch.arange(batch.n_frames) < LEAD_IN) & (batch.first > 0)[:, None]
        weights = torch.where((age < 0) | lead_in, 0.0, weights)
        return weights[:, None].expand(-1, self.recipe.codec.n_codebooks, -1)

    def losses(
        self, tokens: Tokens, texts: list[Tensor], batch: Batch, weights: Tensor | None
    ) -> Tensor:
        """The loss of each codebook in nats: float [K]; `weights` [B, K, T], None counts all."""
        codes = cut(tokens.codes[batch.rows], batch.first, batch.n_frames)  # [B, K, T]
        before = torch.arange(batch.n_frames) < batch.switch[:, None]  # [B, T]
        codes = torch.where(before[:, None], codes.roll(1, dims=0), codes)
        with torch.autocast("cpu", torch.bfloat16, self.dtype == "bf16"):
            conditions = self.conditions(tokens, texts, batch)
            return self.language.lm.compute_loss(codes, conditions, weights).per_codebook

    def conditions(self, tokens: Tokens, texts: list[Tensor], batch: Batch) -> list[RowCondition]:
        """Conditions in the engine's layout, one per row: melody, then text at its own length.

        A row without text has zeros in its place: as many as its caption has tokens where the row
        stands for guidance's null row, and one where it stands for an empty prompt.
        """
        lm = self.language.lm
        assert lm.cfg.chroma is not None
        conditioners: Any = lm.condition_provider.conditioners
        ids = nn.utils.rnn.pad_sequence([texts[row] for row in batch.rows], batch_first=True)
        lengths = torch.tensor([len(texts[row]) for row in batch.rows])
        mask = torch.arange(ids.shape[1]) < lengths[:, None]  # [B, L]
        hidden = self.language.text(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        words = conditioners["description"].output_proj(hidden)  # [B, L, D]
        words = words * batch.text[:, None, None]
        kept = torch.where(batch.empty, 1, lengths)
        chroma = tokens.chroma[batch.rows]  # [B, longer]
        chroma = cut(chroma, batch.first // HOP_FRAMES, lm.cfg.chroma.chroma_length)  # [B, n]
        classes = chroma * batch.melody[:, None]  # class 0 is "no melody"
        heard = F.one_hot(classes, lm.cfg.chroma.n_chroma).float()
        melody = conditioners["self_wav"].output_proj(heard)  # [B, n, D]
        return [
            RowCondition(prefix=torch.cat([tune, said[:length]]))
            for tune, said, length in zip(melody, words, kept.tolist(), strict=True)
        ]

    @torch.no_grad()
    def evaluate(self, test: Tokens) -> dict[str, Any]:
        """Held-out losses in nats of each codebook, for each combination of conditions.

        `first_note` is the loss of codebook 0 at the first pitch, with text as the only condition;
        `dtype` the number format that the training computes in.
        """
        texts = self.tokenise(test.captions)
        self._swap()
        found: dict[str, Any] = {"dtype": self.dtype}
        for view, (text, melody) in VIEWS.items():
            batches = list(self._test_batches(min(len(test), TEST_ROWS), text, melody))
            losses = torch.stack([self.losses(test, texts, b, None) for b in batches])  # [n, K]
            found[view] = [round(float(x), 3) for x in losses.mean(dim=0)]
            if view == "text":
                first = torch.zeros(1, self.recipe.codec.n_codebooks, self.recipe.window_frames)
                first[:, 0, :ONSET_FRAMES] = 1
                notes = [
                    self.losses(test, texts, b, first.expand(len(b.rows), -1, -1))[0]
                    for b in batches
                ]
                found["first_note"] = float(torch.stack(notes).mean())
        self._swap()
        return found

    def _test_batches(self, n_rows: int, text: bool, melody: bool) -> Iterator[Batch]:
        for start in range(0, n_rows, TEST_BATCH):
            rows = torch.arange(start, min(start + TEST_BATCH, n_rows))
            told, sung = (torch.full((len(rows),), keeps) for keeps in (text, melody))
            none = torch.zeros_like(rows)
            n_frames = self.recipe.window_frames
            yield Batch(rows, none, n_frames, told, sung, torch.zeros_like(told), none)

    @torch.no_grad()
    def _swap(self) -> None:
        """Exchanges the weights and their averages."""
        for parameter, mean in zip(self.parameters, self.average, strict=True):
            kept = parameter.detach().clone()
            parameter.copy_(mean)
            mean.copy_(kept)


def _dtype(recipe: Recipe) -> Literal["bf16", "fp32"]:
    """The number format that the language model computes in while it is trained.

    Without AVX-512 a step in bf16 takes more than ten times as long as one in fp32.
    """
    return "bf16" if recipe.autocast and has_fast_bf16() else "fp32"


def name_a_key(captions: list[str]) -> Tensor:
    """Whether each caption names a key: bool [M]."""
    return torch.tensor([text.partition(",")[0] in KEYS for text in captions])


def draw(recipe: Recipe, keyed: Tensor, step: int, progress: float) -> Batch:
    """Draws the rows of one step and their conditions; the same step draws the same.

    Args:
        recipe: The recipe.
        keyed: Whether the caption of each piece names the key: bool [M].
        step: Number of the step.
        progress: Share of the budget that is spent.
    """
    settings = recipe.language
    rng = rng_of(recipe.seed, settings.stream, step)
    n_frames = recipe.window_frames
    if progress < settings.full_from or rng.random() < 0.5:
        n_frames = min(n_frames, settings.crop_frames)
    n_rows = max(1, settings.frames_per_batch // n_frames)
    latest = (recipe.piece_frames - n_frames) // HOP_FRAMES
    inside = rng.random(n_rows) < settings.p_inside
    first = HOP_FRAMES * inside * rng.integers(0, latest + 1, n_rows)
    rows = torch.from_numpy(rng.integers(0, len(keyed), n_rows))
    text_only = rng.random(n_rows) < settings.p_text_only
    text = text_only | (rng.random(n_rows) < settings.p_text)
    melody = ~text_only & (rng.random(n_rows) < settings.p_melody)
    set_in = keyed[rows].numpy() & text_only & (rng.random(n_rows) < settings.p_switch)
    at = rng.integers(n_frames // 6, 5 * n_frames // 6, n_rows)
    set_in |= melody & (rng.random(n_rows) < settings.p_melody_switch)
    empty = ~text & (rng.random(n_rows) < settings.p_empty)
    told = (torch.from_numpy(kept) for kept in (first, text, melody, empty, at * set_in))
    start, text_kept, melody_kept, is_empty, switch = told
    return Batch(rows, start, n_frames, text_kept, melody_kept, is_empty, switch)


def cut(x: Tensor, first: Tensor, n: int) -> Tensor:
    """The `n` entries of `x` [B, …, T] from `first` [B] on, wrapping around at the end."""
    index = (first[:, None] + torch.arange(n)) % x.shape[-1]  # [B, n]
    index = index.view(len(x), *[1] * (x.ndim - 2), n).expand(*x.shape[:-1], n)
    return x.gather(-1, index)
