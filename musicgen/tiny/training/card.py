"""The model card: data, recipe, figures, licence."""

import json
from pathlib import Path
from typing import Any

from musicgen.tiny.training.figures import AT_MOST
from musicgen.tiny.training.recipe import SAMPLING

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
`make eval-tiny`, on held-out combinations, with top-k {top_k}, temperature {temperature:g} and a
guidance of {guidance:g} unless said otherwise; beside each value what chance gives and the ceiling,
the synthesiser's own audio after the codec.

{table}

- `codec_si_snr_db`: signal to noise (scale-invariant) of pieces after the codec.
- `in_scale_text`: frames whose strongest pitch class is in the captioned scale, told the caption;
  `in_scale_melody`: told a melody too, which another voice plays.
- `chroma_matched`: frames with the melody's pitch class; `chroma_shuffled`: with another melody's.
- `voice_accuracy`, `tempo_accuracy`: clips with the captioned one, told the caption.
- `guidance_gain`: `chroma_matched` with a guidance of 3 less that with 1.
- `continuation_in_key`: frames in the scale of a prompt of 2 s, told a caption without its key.
- `nats_per_token`: cross-entropy of the pieces' own tokens, all codebooks alike.
- `clicks_per_minute`: bursts at the highest frequencies in flute clips without drums, told the
  caption.
- `songs_matched`: as `chroma_matched`, of old songs instead of pieces of the synthesiser's kind.
- `joint_roughness`: how abruptly the spectrum changes where two windows of a clip of 20 s are
  joined, over the same elsewhere in these clips; at 1 a joint is no rougher than the rest.
- `language_steps`: steps of the language model's training, where the checkpoint says so. Its budget
  is a time, so a faster machine makes more of them.
- `language_bits`: of the number format that it computed in: bf16 (16), or fp32 (32) where the CPU
  is slow in bf16, which takes longer per step.

## Licence
Apache-2.0, as the repository.
"""

SPREAD = """
"Other trainings" are those of the same recipe with other seeds ({seeds}). A difference between
models means something where it exceeds that between trainings of about as many steps."""
UNKNOWN = "How many steps the model here made was not kept."

Figures = dict[str, dict[str, Any]]  # as `as_json` gives them


def write_card(folder: Path, figures: Figures, others: dict[str, Figures] | None = None) -> None:
    """Writes README.md beside the weights in `folder`.

    Args:
        folder: A checkpoint.
        figures: None of a model that was not measured yet.
        others: Those of other trainings, by seed.
    """
    others = others or {}
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    recipe = config["training"]
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
        table=_table(figures, others) if figures else "Not measured yet.",
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def _table(figures: Figures, others: dict[str, Figures]) -> str:
    """A row per figure; the last column is there where others were trained."""
    rows = [["figure", "value", "chance", "ceiling", "goal", "other trainings"], ["---"] * 6]
    known = [figures, *others.values()]
    for key in dict.fromkeys(key for table in known for key in table):
        row = figures.get(key, {})
        values = [_number(row.get(name)) for name in ("value", "chance", "ceiling")]
        rows.append([key, *values, _goal(key, row.get("goal")), _values(key, others)])
    n_columns = 6 if others else 5
    lines = [f"| {' | '.join(row[:n_columns])} |" for row in rows]
    if others:
        lines.append(SPREAD.format(seeds=" and ".join(others)))
        if "language_steps" not in figures:
            lines.append(UNKNOWN)
    return "\n".join(lines)


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _values(key: str, others: dict[str, Figures]) -> str:
    found = [_number(figures[key]["value"]) for figures in others.values() if key in figures]
    return ", ".join(found) or "–"


def _goal(key: str, goal: float | None) -> str:
    return "–" if goal is None else f"{'≤' if key in AT_MOST else '≥'} {goal:g}"
