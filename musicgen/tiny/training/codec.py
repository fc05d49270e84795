"""Trains the codec: transformers' EnCodec on the sound of the synthesiser.

Three things let it learn within minutes: weights that begin as a near-isometric transform and its
inverse, flushed denormals, and codebooks made by k-means once the latents have been trained.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import EncodecConfig, EncodecModel

from musicgen.tiny.music import FRAME_SAMPLES, SAMPLE_RATE_HZ
from musicgen.tiny.training.isometry import initialise
from musicgen.tiny.training.measures import si_snr_db
from musicgen.tiny.training.pieces import excerpt, random_piece, rng_of
from musicgen.tiny.training.recipe import CodecRecipe, Recipe, Stage
from musicgen.tiny.training.schedule import cosine
from musicgen.tiny.training.synth import VOICES

UPSAMPLING = [2, 4, 5, 8]  # the short part at the high rate: three times as fast as [8, 5, 4, 2]
WINDOWS = (256, 1024, 2048)
EMA, DEAD, COMMIT = 0.97, 0.1, 0.25  # DEAD: as a share of the mean use of an entry
DEAD_EVERY, LOG_EVERY = 20, 100
KMEANS_ROUNDS = 10
OFF_GRID = 0.3  # share of the crops that begin between the frames, as other people's audio does
TRAIN, TEST = 1, 2  # streams of random numbers


def codec_config(recipe: CodecRecipe) -> EncodecConfig:
    """The shape of the codec."""
    bits = (recipe.card - 1).bit_length()
    rate = SAMPLE_RATE_HZ / FRAME_SAMPLES
    return EncodecConfig(
        sampling_rate=SAMPLE_RATE_HZ,
        num_filters=recipe.n_filters,
        hidden_size=recipe.hidden,
        codebook_size=recipe.card,
        upsampling_ratios=UPSAMPLING,
        target_bandwidths=[recipe.n_codebooks * bits * rate / 1000],  # kbit/s
        use_causal_conv=False,
        use_conv_shortcut=False,
        num_lstm_layers=1,
    )


def train_codec(recipe: Recipe, folder: Path) -> EncodecModel:
    """Trains the codec, or resumes an interrupted training, and returns it."""
    settings = recipe.codec
    torch.manual_seed(recipe.seed)
    model = EncodecModel(codec_config(settings))
    stage = Stage(folder, "codec", settings.minutes, settings.max_steps)
    state = stage.load()
    training = CodecTraining(model, recipe)
    if state is None:
        initialise(model, batch_of(recipe, 0))
    else:
        training.load(state)
    while not stage.finished and stage.progress < 1:
        loss = training.step(batch_of(recipe, stage.step), stage)
        stage.step += 1
        if stage.step % LOG_EVERY == 0:
            stage.log(loss=loss, **evaluate(model, recipe, training.quantises))
        if stage.due():
            stage.save(training.state())
    if not stage.finished:
        stage.log(**evaluate(model, recipe, True, settings.test_pieces))
        stage.save(training.state(), finished=True)
    return model.eval().requires_grad_(False)


def batch_of(recipe: Recipe, step: int) -> Tensor:
    """Audio [B, 1, N] for one step: crops of pieces that no other step has used."""
    n_frames = recipe.codec.crop_frames
    rows = []
    for index in range(recipe.codec.batch):
        rng = rng_of(recipe.seed, TRAIN, step, index)
        first = int(rng.integers(0, 3 * n_frames))
        piece = excerpt(random_piece(rng, first + 3 * n_frames), first, n_frames + 2)
        start = int(rng.integers(FRAME_SAMPLES)) if rng.random() < OFF_GRID else 0
        rows.append(piece.audio()[start : start + n_frames * FRAME_SAMPLES])
    return torch.from_numpy(np.stack(rows))[:, None]


@dataclass(frozen=True)
class Quantised:
    """The result of quantising latents [B, D, T].

    Attributes:
        latents: The sum of the chosen entries, with the gradient of what came in.
        commit: How far the latents are from it.
        residuals: What each codebook was given, K times [B·T, D].
        chosen: Its entries, K times [B·T].
    """

    latents: Tensor
    commit: Tensor
    residuals: list[Tensor]
    chosen: list[Tensor]


class CodecTraining:
    """The optimiser, and the codebooks' moving averages."""

    def __init__(self, model: EncodecModel, recipe: Recipe) -> None:
        self.model, self.recipe = model.train(), recipe
        self.books = [layer.codebook for layer in model.quantizer.layers]
        self.optimiser = torch.optim.AdamW(
            model.parameters(), lr=recipe.codec.learning_rate, betas=(0.8, 0.99), weight_decay=0.0
        )
        self.quantises = False
        self.windows = [torch.hann_window(n_fft) for n_fft in WINDOWS]

    def state(self) -> dict[str, Any]:
        """What `load` takes."""
        return {
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "quantises": self.quantises,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Goes back to a state."""
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.quantises = state["quantises"]

    def step(self, wav: Tensor, stage: Stage) -> float:
        """One step on `wav` [B, 1, N]; returns its loss."""
        if not self.quantises and stage.progress >= self.recipe.codec.plain_share:
            self._make_codebooks(stage.step)
        self.optimiser.param_groups[0]["lr"] = self.recipe.codec.learning_rate * cosine(
            stage.progress
        )
        latents = self.model.encoder(wav)  # [B, D, T]
        quantised = quantise(self.model, latents) if self.quantises else None
        heard = self.model.decoder(latents if quantised is None else quantised.latents)
        loss = self._loss(heard[..., : wav.shape[-1]], wav)
        if quantised is not None:
            loss = loss + COMMIT * quantised.commit
            self._move_codebooks(quantised, stage.step)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), 3.0)
        self.optimiser.step()
        return float(loss.detach())

    def _loss(self, heard: Tensor, wav: Tensor) -> Tensor:
        heard, wav = heard[:, 0], wav[:, 0]  # [B, N]
        loss = heard.new_zeros(())
        for window in self.windows:
            n_fft = len(window)
            ours, theirs = (
                torch.stft(x, n_fft, n_fft // 4, window=window, return_complex=True).abs() + 1e-5
                for x in (heard, wav)
            )
            converged = (ours - theirs).norm() / theirs.norm()
            loss = loss + (0.5 * converged + (ours.log() - theirs.log()).abs().mean()) / len(
                WINDOWS
            )
        energy = wav.square().sum(dim=-1) + 1e-3
        error = (heard - wav).square().sum(dim=-1) + 1e-3
        return loss + (10 * torch.log10(error / energy)).mean() * 0.1

    @torch.no_grad()
    def _make_codebooks(self, step: int) -> None:
        """k-means, level by level, on the latents of fresh audio."""
        latents: list[Tensor] = []
        n_found = 0
        while n_found < self.recipe.codec.warm_latents:
            wav = batch_of(self.recipe, step + self.recipe.codec.warm_latents + n_found)
            found = self.model.encoder(wav).transpose(1, 2).flatten(0, 1)  # [B·T, D]
            latents.append(found)
            n_found += len(found)
        residual = torch.cat(latents)
        generator = torch.Generator().manual_seed(self.recipe.seed)
        for book in self.books:
            book.embed.copy_(k_means(residual, book.codebook_size, generator))
            book.cluster_size.fill_(1.0)
            book.embed_avg.copy_(book.embed)
            residual = residual - book.embed[book.quantize(residual)]
        self.quantises = True

    @torch.no_grad()
    def _move_codebooks(self, quantised: Quantised, step: int) -> None:
        for book, given, chosen in zip(
            self.books, quantised.residuals, quantised.chosen, strict=True
        ):
            uses = torch.zeros_like(book.cluster_size).index_add_(
                0, chosen, torch.ones(len(chosen))
            )
            sums = torch.zeros_like(book.embed_avg).index_add_(0, chosen, given)
            book.cluster_size.mul_(EMA).add_(uses, alpha=1 - EMA)
            book.embed_avg.mul_(EMA).add_(sums, alpha=1 - EMA)
            mean_uses = len(chosen) / len(uses)
            if step % DEAD_EVERY == 0:
                dead = (book.cluster_size < DEAD * mean_uses).nonzero()[:, 0]
                pick = torch.from_numpy(
                    rng_of(self.recipe.seed, 3, step).integers(0, len(given), len(dead))
                )
                book.embed_avg[dead] = given[pick] * mean_uses
                book.cluster_size[dead] = mean_uses
            book.embed.copy_(book.embed_avg / book.cluster_size.clamp(min=1e-4)[:, None])


def quantise(model: EncodecModel, latents: Tensor) -> Quantised:
    """Residual quantisation of `latents` [B, D, T], level by level."""
    flat = latents.transpose(1, 2).flatten(0, 1)  # [B·T, D]
    residual, total = flat.detach(), torch.zeros_like(flat)
    residuals, chosen = [], []
    for layer in model.quantizer.layers:
        index = layer.codebook.quantize(residual)  # [B·T]
        residuals.append(residual)
        chosen.append(index)
        entries = layer.codebook.embed[index]
        total, residual = total + entries, residual - entries
    commit = (flat - total).square().mean() / flat.detach().square().mean()
    straight = flat + (total - flat).detach()  # [B·T, D]
    shape = (latents.shape[0], latents.shape[2], -1)
    return Quantised(straight.view(shape).transpose(1, 2), commit, residuals, chosen)


def k_means(points: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Centres [n, D] of `points` [M, D]; a centre without points is moved to a point."""
    pick = torch.randint(len(points), (n,), generator=generator)
    if len(points) >= n:
        pick = torch.randperm(len(points), generator=generator)[:n]
    centres = points[pick]
    for _ in range(KMEANS_ROUNDS):
        nearest = torch.cdist(points, centres).argmin(dim=1)  # [M]
        counts = torch.zeros(n).index_add_(0, nearest, torch.ones(len(points)))
        sums = torch.zeros_like(centres).index_add_(0, nearest, points)
        strays = points[torch.randint(len(points), (n,), generator=generator)]
        centres = torch.where(
            counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], strays
        )  # [n, D]
    return centres


@torch.no_grad()
def round_trip(model: EncodecModel, wav: Tensor, *, quantised: bool = True) -> Tensor:
    """`wav` [B, 1, N] through the codec, or (not `quantised`) through its two nets alone."""
    latents = model.encoder(wav)  # [B, D, T]
    if quantised:
        latents = model.quantizer.decode(model.quantizer.encode(latents))
    heard: Tensor = model.decoder(latents)[..., : wav.shape[-1]]
    return heard


def evaluate(
    model: EncodecModel, recipe: Recipe, quantised: bool, n_pieces: int = 8
) -> dict[str, float]:
    """Mean SI-SNR in dB over held-out pieces of 3 s, and that of each voice."""
    found: dict[str, list[float]] = {voice: [] for voice in VOICES}
    for index in range(n_pieces):
        piece = random_piece(rng_of(recipe.seed, TEST, index), 150, unseen=True)
        wav = torch.from_numpy(piece.audio())[None, None]
        heard = round_trip(model, wav, quantised=quantised)
        found[piece.voice].append(si_snr_db(heard[0, 0], wav[0, 0]))
    rows = {voice: float(np.mean(values)) for voice, values in found.items() if values}
    everything = [value for values in found.values() for value in values]
    return {"si_snr_db": float(np.mean(everything)), **rows}
