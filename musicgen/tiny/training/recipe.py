"""The training recipe with its time budgets, and the clock, checkpoints and log of a stage."""

import json
import logging
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from musicgen.config import SamplingParams
from musicgen.tiny.training.synth import FRAME_RATE_HZ

logger = logging.getLogger(__name__)

CHECKPOINT_S = 300.0
LOG = "log.jsonl"  # of all stages
SAMPLING = SamplingParams(top_k=50, temperature=0.6, cfg_coef=2.5)  # that suits the model


@dataclass(frozen=True)
class CodecRecipe:
    """The codec: an EnCodec at 16 kHz, 50 frames a second (strides 8, 5, 4, 2).

    Attributes:
        minutes: Budget of the stage.
        max_steps: Ends it earlier; 0 does not.
        batch: Crops per step.
        crop_frames: Length of a crop.
        plain_share: Share of the budget that trains without the quantiser.
        warm_latents: From how many latents the codebooks are first made.
    """

    minutes: float = 20.0
    max_steps: int = 0
    batch: int = 8
    crop_frames: int = 50
    n_filters: int = 16
    hidden: int = 64
    card: int = 512
    n_codebooks: int = 4
    learning_rate: float = 1e-3
    plain_share: float = 0.2
    warm_latents: int = 12_000
    test_pieces: int = 24


@dataclass(frozen=True)
class TokensRecipe:
    """The training data of the language model: codes of pieces, with the melody's chroma.

    Attributes:
        minutes: Budget of the stage; it ends when that is spent or all pieces are there.
        pieces: How many at most.
        chunk: Pieces per file.
        test_pieces: Of held-out combinations, for the log.
        from_the_start: Share of the pieces that are read from their first note on; the others
            are excerpts, as continuations and later windows are.
        longer_s: What a piece lasts beyond a window, so that windows can begin within it.
        keyless: Share of the captions that never name the key, beside those that leave it out by
            chance: what comes before must tell it.
    """

    minutes: float = 9.0
    pieces: int = 11_520
    chunk: int = 240
    test_pieces: int = 192
    from_the_start: float = 0.65
    longer_s: int = 2
    keyless: float = 0.3


@dataclass(frozen=True)
class LanguageRecipe:
    """The language model and its T5.

    Attributes:
        minutes: Budget of the stage.
        max_steps: Ends it earlier; 0 does not.
        frames_per_batch: Tokens of a step, as frames: crops of `crop_frames` or whole windows.
        crop_frames: Length of the crops.
        full_from: From which share of the budget on every second batch holds whole windows.
        p_inside: Share of the rows that begin somewhere within their piece, in the middle of a
            note, as later windows of a clip do.
        p_text_only: Share of the pieces that have text alone.
        p_text, p_melody: Shares of the others that keep each condition.
        p_empty: Share of those that keep no text that are like empty prompts.
        p_switch: Share of those with text alone, if it names a key, that set in after music of
            another piece.
        p_melody_switch: Share of those with a melody that do.
        codebook_weights: Of the loss of each codebook.
        onset_weight: Of the first frames of a note, where its pitch is chosen.
        jump_weight: Of the first frames after other music.
        opening_weight: Of the first second, where the key can come from nothing but the text.
        average: Of the weights that are shipped: an exponential mean with this factor.
        stream: Of random numbers.
    """

    minutes: float = 46.0
    max_steps: int = 0
    frames_per_batch: int = 4800
    crop_frames: int = 150
    full_from: float = 0.35
    dim: int = 144
    n_heads: int = 4
    n_layers: int = 5
    ffn_dim: int = 576
    text_dim: int = 64
    text_layers: int = 2
    learning_rate: float = 2e-3
    warm_up_steps: int = 100
    weight_decay: float = 0.05
    p_inside: float = 0.4
    p_text_only: float = 0.45
    p_switch: float = 0.4
    p_melody_switch: float = 0.0
    p_text: float = 0.8
    p_melody: float = 0.7
    p_empty: float = 0.5
    codebook_weights: tuple[float, ...] = (3.0, 1.5, 1.0, 1.0)
    onset_weight: float = 3.0
    jump_weight: float = 1.0
    opening_weight: float = 2.0
    average: float = 0.999
    stream: int = 21


FINISH = LanguageRecipe(
    minutes=14.0,
    full_from=0.0,
    warm_up_steps=50,
    p_text_only=0.2,
    p_melody_switch=0.5,
    p_melody=0.85,
    jump_weight=4.0,
    average=0.99,
    stream=22,
)


@dataclass(frozen=True)
class Recipe:
    """The whole recipe: budgets of 89 minutes, made for two cores.

    Attributes:
        seed: Of everything that is random.
        max_duration_s: Length of the model's window.
        autocast: bf16 on CPUs that are faster in it.
        codec, tokens, language, finish: The stages; `finish` goes on with the language model.
    """

    seed: int = 6
    max_duration_s: int = 10
    autocast: bool = True
    codec: CodecRecipe = field(default_factory=CodecRecipe)
    tokens: TokensRecipe = field(default_factory=TokensRecipe)
    language: LanguageRecipe = field(default_factory=LanguageRecipe)
    finish: LanguageRecipe = FINISH

    @property
    def window_frames(self) -> int:
        """Length of the model's window."""
        return self.max_duration_s * FRAME_RATE_HZ

    @property
    def piece_frames(self) -> int:
        """Length of the pieces of which tokens are made."""
        return self.window_frames + self.tokens.longer_s * FRAME_RATE_HZ

    def as_json(self) -> dict[str, Any]:
        """For the log and the exported configuration."""
        return json.loads(json.dumps(asdict(self)))  # type: ignore[no-any-return]


def keep_recipe(recipe: Recipe, folder: Path) -> None:
    """Writes `recipe.json` beside the stages, so that none goes on under another recipe.

    Raises:
        SystemExit: If `folder` holds stages of another one.
    """
    path, wanted = folder / "recipe.json", recipe.as_json()
    if path.exists() and json.loads(path.read_text(encoding="utf-8")) != wanted:
        raise SystemExit(
            f"{path}: the recipe has changed since these stages were begun; remove {folder} to "
            f"begin again, or put the recipe back"
        )
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(wanted, indent=2) + "\n", encoding="utf-8")


def what_was_made(folder: Path) -> dict[str, Any]:
    """What the machine made of the recipe, by the log in `folder`: the budgets are times.

    Returns:
        `steps_made`, the last step of each stage, and `language_dtype`, the number format that the
        language model was trained in last, or None: logs of earlier versions don't say it.
    """
    lines = [json.loads(line) for line in (folder / LOG).read_text("utf-8").splitlines()]
    dtypes = [line["dtype"] for line in lines if "dtype" in line]
    return {
        "steps_made": {line["stage"]: line["step"] for line in lines},
        "language_dtype": dtypes[-1] if dtypes else None,
    }


class Stage:
    """One stage's clock, state and log; what stopped goes on from its last checkpoint.

    Time counts only while the stage runs, over all the runs that it took.

    Args:
        folder: Where all stages keep their files.
        name: Of this one: `<name>.pt` is its state, `log.jsonl` the log of all.
        minutes: Its budget.
        max_steps: Ends it earlier; 0 does not.
    """

    def __init__(self, folder: Path, name: str, minutes: float, max_steps: int = 0) -> None:
        self.name, self.minutes, self.max_steps = name, minutes, max_steps
        self.path, self.log_path = folder / f"{name}.pt", folder / LOG
        self.step, self._spent_s, self._finished = 0, 0.0, False
        folder.mkdir(parents=True, exist_ok=True)
        self._started = self._saved = time.monotonic()

    @property
    def spent_s(self) -> float:
        """Seconds so far, of earlier runs too."""
        return self._spent_s + time.monotonic() - self._started

    @property
    def progress(self) -> float:
        """Share of the budget that is spent, 0 … 1."""
        by_steps = self.step / self.max_steps if self.max_steps else 0.0
        return min(1.0, max(by_steps, self.spent_s / (60 * self.minutes)))

    @property
    def finished(self) -> bool:
        """Whether an earlier run came to the end."""
        return self._finished

    def load(self) -> dict[str, Any] | None:
        """The state of the last checkpoint, or None."""
        if not self.path.exists():
            return None
        saved: dict[str, Any] = torch.load(self.path, weights_only=True)
        self.step, self._spent_s = saved["step"], saved["spent_s"]
        self._finished = saved["finished"]
        self._started = self._saved = time.monotonic()
        logger.info("%s: goes on after step %d, %.0f s", self.name, self.step, self._spent_s)
        return dict(saved["state"])

    def due(self) -> bool:
        """Whether it is time for a checkpoint."""
        return time.monotonic() - self._saved >= CHECKPOINT_S

    def save(self, state: dict[str, Any], *, finished: bool = False) -> None:
        """Writes a checkpoint; a crash leaves the one before."""
        self._finished, self._saved = finished, time.monotonic()
        saved = {"step": self.step, "spent_s": self.spent_s, "finished": finished, "state": state}
        part = self.path.with_suffix(".part")
        torch.save(saved, part)
        os.replace(part, self.path)  # noqa: PTH105 - the atomic one

    def log(self, **numbers: Any) -> None:
        """One line of JSON, to the file and to `logging`."""
        rounded = {
            name: round(value, 4) if isinstance(value, float) else value
            for name, value in numbers.items()
        }
        line = {"stage": self.name, "step": self.step, "s": round(self.spent_s), **rounded}
        with self.log_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        logger.info("%s", json.dumps(line))
