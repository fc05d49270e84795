"""The settings `score` and `keep_best`: which scorers judge clips, and how many takes are kept."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from pipeline.audio.scores.table import SCORERS


class ScorerSpec(NamedTuple):
    """A scorer as it was asked for.

    Attributes:
        name: One of SCORERS.
        source: Its checkpoint, a folder or a hub id; None: the default one.
    """

    name: str
    source: str | None = None


class ScoreSettings(BaseModel):
    """How clips are scored, and which takes of a row are kept."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    score: str | None = Field(
        None,
        description="Score clips: names with commas, a checkpoint behind =, as in "
        "melody,clap=FOLDER. Known: " + ", ".join(SCORERS) + ".",
    )
    keep_best: int | None = Field(
        None,
        ge=1,
        le=1000,
        description="Of the takes of a row keep so many, by the first scorer of --score; the "
        "others leave their scores alone.",
    )

    @field_validator("score")
    @classmethod
    def _are_known(cls, text: str | None) -> str | None:
        """Folders become absolute, since workers have other folders."""
        return None if text is None else written(parse(text))

    @model_validator(mode="after")
    def _something_judges(self) -> ScoreSettings:
        if self.keep_best is not None and self.score is None:
            raise ValueError(
                "keep_best needs a scorer that judges the takes: add one, as in --score melody"
            )
        return self

    @property
    def scorers(self) -> tuple[ScorerSpec, ...]:
        """The scorers that were asked for; the first one judges takes."""
        return () if self.score is None else parse(self.score)


def parse(text: str) -> tuple[ScorerSpec, ...]:
    """The scorers that a text such as `melody,clap=FOLDER` names.

    Raises:
        ValueError: It names none, one twice, or one that is not known.
    """
    found: dict[str, ScorerSpec] = {}
    for item in text.split(","):
        name, _, source = (part.strip() for part in item.partition("="))
        if name not in SCORERS:
            raise ValueError(f"score: no scorer is named {name!r}; known: {', '.join(SCORERS)}")
        if source and not SCORERS[name].has_checkpoint:
            raise ValueError(f"score: {name} has no checkpoint to choose; write {name} alone")
        if name in found:
            raise ValueError(f"score: {name} stands there twice; name it once")
        is_folder = bool(source) and Path(source).expanduser().exists()
        found[name] = ScorerSpec(
            name, str(Path(source).expanduser().absolute()) if is_folder else source or None
        )
    return tuple(found.values())


def written(specs: tuple[ScorerSpec, ...]) -> str:
    """The text that `parse` reads."""
    return ",".join(spec.name + (f"={spec.source}" if spec.source else "") for spec in specs)


def needs_tunes(specs: tuple[ScorerSpec, ...]) -> bool:
    """Whether any of the scorers must hear the melody references."""
    return any(spec.name == "melody" for spec in specs)
