"""Trains the bundled model from nothing: codec, tokens, language model, then the folder.

    python -m musicgen.tiny.training.train --work out/tiny --output musicgen/tiny/checkpoint
    python -m musicgen.tiny.training.train --work out/tiny-7 --output out/tiny-7/model --seed 7

Stopped at any point, the same command goes on from the last checkpoint (one every five minutes);
`--work` holds them and `log.jsonl`. To begin again, remove that folder.
"""

import argparse
import logging
from pathlib import Path

import torch

from musicgen.tiny.training.codec import train_codec
from musicgen.tiny.training.export import export
from musicgen.tiny.training.language import train_language
from musicgen.tiny.training.recipe import Recipe, keep_recipe, what_was_made
from musicgen.tiny.training.tokens import make_tokens

logger = logging.getLogger(__name__)

OUTPUT = Path(__file__).parents[1] / "checkpoint"


def train(recipe: Recipe, work: Path, output: Path) -> None:
    """All stages, each from where an earlier run left it.

    Raises:
        SystemExit: If `work` holds stages of another recipe.
    """
    keep_recipe(recipe, work)
    torch.set_flush_denormal(True)  # without it the untrained codec is ten times slower
    codec = train_codec(recipe, work)
    tokens, test = make_tokens(recipe, codec, work / "tokens")
    language = train_language(recipe, tokens, test, work)
    made = {"pieces_made": len(tokens), **what_was_made(work)}
    export(recipe, codec, language, output, made)
    logger.info("written: %s", output)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--work", type=Path, default=Path("out/tiny"))
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--seed", type=int, default=Recipe.seed, help="of everything random")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    train(Recipe(seed=options.seed), options.work, options.output)


if __name__ == "__main__":
    main()
