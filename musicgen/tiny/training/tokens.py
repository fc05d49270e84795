"""The training data of the language model: codes of pieces, beside their conditions."""

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor
from transformers import EncodecModel

from musicgen.codec.codec import CompressionModel
from musicgen.conditioning.chroma import ChromaExtractor, tile
from musicgen.conditioning.tune import tune_config
from musicgen.tiny.music import SAMPLE_RATE_HZ
from musicgen.tiny.training.pieces import Piece, caption, excerpt, random_piece, rng_of
from musicgen.tiny.training.recipe import Recipe, Stage
from musicgen.tiny.training.synth import FRAME_RATE_HZ, VOICES

logger = logging.getLogger(__name__)

ONSET_FRAMES = 3  # of a note in which its pitch is decided
TRAIN, TEST = 11, 12  # streams of random numbers
TEST_NAME = "test"


@dataclass(frozen=True)
class Tokens:
    """Pieces as tensors, one row each.

    Attributes:
        codes: int64 [M, K, T].
        chroma: Pitch classes of the melody from `ChromaExtractor`: int64 [M, n].
        onsets: Whether a note of the melody has just begun: bool [M, T].
        captions: M texts.
    """

    codes: Tensor
    chroma: Tensor
    onsets: Tensor
    captions: list[str]

    def __len__(self) -> int:
        return len(self.captions)

    @classmethod
    def read(cls, paths: list[Path]) -> "Tokens":
        """From the files of `make_tokens`."""
        files = [torch.load(path, weights_only=True) for path in paths]
        return cls(
            codes=torch.cat([file["codes"] for file in files]),
            chroma=torch.cat([file["chroma"] for file in files]),
            onsets=torch.cat([file["onsets"] for file in files]),
            captions=[text for file in files for text in file["captions"]],
        )


def make_tokens(recipe: Recipe, codec: EncodecModel, folder: Path) -> tuple[Tokens, Tokens]:
    """Tokens to train on, as many as the budget allows, and held-out ones.

    Every file that is complete is kept; a run that was stopped goes on with the next one.
    """
    settings = recipe.tokens
    folder.mkdir(parents=True, exist_ok=True)
    model = CompressionModel(codec)
    test = folder / f"{TEST_NAME}.pt"
    if not test.exists():
        _write(test, recipe, model, range(settings.test_pieces), unseen=True)
    stage = Stage(folder, "tokens", settings.minutes)
    stage.load()
    while not stage.finished:
        start = stage.step * settings.chunk
        end = min(start + settings.chunk, settings.pieces)
        _write(folder / f"{stage.step:04}.pt", recipe, model, range(start, end), unseen=False)
        stage.step += 1
        finished = end == settings.pieces or stage.progress >= 1
        stage.log(pieces=end)
        stage.save({}, finished=finished)
    paths = [folder / f"{index:04}.pt" for index in range(stage.step)]
    return Tokens.read(paths), Tokens.read([test])


def _write(
    path: Path, recipe: Recipe, codec: CompressionModel, indices: range, *, unseen: bool
) -> None:
    extractor = ChromaExtractor(tune_config(recipe.piece_frames / FRAME_RATE_HZ))

    def row(index: int) -> tuple[Tensor, Tensor, Tensor, str]:
        return _row(recipe, codec, extractor, index, unseen)

    # One thread per piece is faster than all threads on one.
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with ThreadPoolExecutor(n_threads, initializer=torch.set_flush_denormal, initargs=(True,)) as p:
        rows = list(p.map(row, indices))
    torch.set_num_threads(n_threads)
    part = path.with_suffix(".part")
    codes, chroma, onsets, captions = zip(*rows, strict=True)
    tensors = {"codes": codes, "chroma": chroma, "onsets": onsets}
    stacked = {name: torch.stack(values) for name, values in tensors.items()}
    torch.save({**stacked, "captions": list(captions)}, part)
    part.replace(path)


def _row(
    recipe: Recipe, codec: CompressionModel, extractor: ChromaExtractor, index: int, unseen: bool
) -> tuple[Tensor, Tensor, Tensor, str]:
    rng = rng_of(recipe.seed, TEST if unseen else TRAIN, index)
    piece = training_piece(recipe, rng, unseen=unseen)
    heard = torch.from_numpy(reference(piece, rng))[None]
    wav = torch.from_numpy(piece.audio())[None]  # [1, N]
    return (
        codec.quantize(wav),  # [K, T]
        tile(extractor(heard, SAMPLE_RATE_HZ), extractor.config.chroma_length),  # [n]
        onsets(piece),  # [T]
        caption(piece, rng, key=rng.random() >= recipe.tokens.keyless),
    )


def training_piece(recipe: Recipe, rng: Generator, *, unseen: bool) -> Piece:
    """A window of music and a little more: from the start of a piece on, or from within."""
    n_frames = recipe.piece_frames
    if rng.random() < recipe.tokens.from_the_start:
        return random_piece(rng, n_frames, unseen=unseen)
    first = int(rng.integers(n_frames))
    piece = random_piece(rng, first + n_frames + FRAME_RATE_HZ * 2, unseen=unseen)
    return excerpt(piece, first, n_frames)


def reference(piece: Piece, rng: Generator) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """What the melody is read from: the piece as it is, or its tune in any voice."""
    return piece.audio() if rng.random() < 0.5 else piece.tune(str(rng.choice(list(VOICES))))


def onsets(piece: Piece) -> Tensor:
    """The frames in which the pitch of a note is chosen: bool [T]."""
    mask = torch.zeros(piece.n_frames, dtype=torch.bool)
    for note in piece.melody:
        mask[note.first_frame : note.first_frame + ONSET_FRAMES] = True
    return mask
