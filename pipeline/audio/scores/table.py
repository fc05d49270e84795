"""The scorers there are: what each measures, declared once for flags, columns and docs."""

from __future__ import annotations

from dataclasses import dataclass

COLUMN = "score_"  # before the name of a scorer


@dataclass(frozen=True)
class ScorerInfo:
    """One scorer.

    Attributes:
        text: What its score says, and of which clips there is none.
        has_checkpoint: Whether it is a model whose weights can be chosen.
    """

    text: str
    has_checkpoint: bool = False


SCORERS = {
    "melody": ScorerInfo(
        "Share of the frames (140 ms) whose strongest pitch class is that of the melody reference, "
        "0 to 1, null without a melody."
    ),
    "key": ScorerInfo(
        "Share of the frames whose strongest pitch class lies in the key that the prompt names, "
        "0 to 1; null where it names none."
    ),
    "tempo": ScorerInfo(
        "1 where the tempo is the one that the prompt names (slow, calm, fast, lively), else 0; "
        "null where it names none. Made for the bundled model's music."
    ),
    "voice": ScorerInfo(
        "1 where the voice is the one that the prompt names (organ, flute, pluck, bell), else 0; "
        "null where it names none. Made for the bundled model's music."
    ),
    "clap": ScorerInfo(
        "Cosine of the CLAP embeddings of prompt and audio, -1 to 1; null without a prompt.",
        has_checkpoint=True,
    ),
    "aesthetics": ScorerInfo(
        "Mean of content enjoyment, content usefulness and production quality by "
        "audiobox-aesthetics, 1 to 10.",
        has_checkpoint=True,
    ),
}
