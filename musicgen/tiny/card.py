"""The model card: data, recipe, figures, licence."""

import json
from pathlib import Path
from typing import Any

from musicgen.tiny.figures import AT_MOST
from musicgen.tiny.recipe import SAMPLING

CARD = """---
license: apache-2.0
tags: [music, text-to-audio]
---
# tiny

A small MusicGen of the melody kind: 16 kHz mono, {codebooks} codebooks of {card} at 50 frames per
second, windows of up to {seconds} s. It plays simple tonal music and follows text and melody.

## Data
{pieces} pieces, all made by the synthesiser of this repository (`musicgen/tiny`): 24 keys, two
tempos, four voices (organ, flute, pluck, bell), sometimes bass, chords and drums; the captions come
from the same parameters. Nobody's recordings or compositions are in it. One in eight combinations
of key, tempo and voice is held out for the evaluation.

A caption names the key first: "{example}".
Other words are read but mean little to it.

## Recipe
`make tiny` makes it from nothing on two CPU cores: the codec in {codec_minutes:g} minutes, its
codes of all pieces in {token_minutes:g} at most, T5 and language model in {language_minutes:g}.
The whole recipe stands in `config.json` under `training`.

## Figures
`make eval-tiny`, on held-out combinations and pieces by which nothing was chosen, with top-k
{top_k}, temperature {temperature:g} and a guidance of {guidance:g}; beside each value what chance
gives and the ceiling, the synthesiser's own audio after the codec.

| figure | value | chance | ceiling | goal |
|---|---|---|---|---|
{rows}

`joint_excess` compares level and chroma at a joint of two windows with those all around;
`joint_excess_elsewhere` is the same at all other points, where nothing is joined: what a joint has
that can't be told from them.
`nats_per_token` is the cross-entropy of held-out pieces, all codebooks alike.

## Licence
Apache-2.0, as the repository.
"""


def write_card(folder: Path, figures: dict[str, dict[str, Any]]) -> None:
    """Writes README.md beside the weights in `folder`; `figures` as `as_json` gives, none
    of a model that was not measured yet."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    recipe = config["training"]
    rows = [
        f"| {key} | {_number(row['value'])} | {_number(row['chance'])} | "
        f"{_number(row['ceiling'])} | {_goal(key, row['goal'])} |"
        for key, row in figures.items()
    ]
    text = CARD.format(
        codebooks=recipe["codec"]["n_codebooks"],
        card=recipe["codec"]["card"],
        seconds=recipe["max_duration_s"],
        pieces=recipe["pieces_made"],
        example="C minor, slow flute melody with bass",
        codec_minutes=recipe["codec"]["minutes"],
        token_minutes=recipe["tokens"]["minutes"],
        language_minutes=recipe["language"]["minutes"] + recipe["finish"]["minutes"],
        top_k=SAMPLING.top_k,
        temperature=SAMPLING.temperature,
        guidance=SAMPLING.cfg_coef,
        rows="\n".join(rows) or "| not measured yet | | | | |",
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _goal(key: str, goal: float | None) -> str:
    return "–" if goal is None else f"{'≤' if key in AT_MOST else '≥'} {goal:g}"
