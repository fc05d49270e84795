"""Scores clips by several scorers at once; loads them where they are used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.audio.scores.checkpoints import VERSIONS, identify, place_of
from pipeline.audio.scores.protocol import Embedder, ScoredClip, Scorer, ScorerError, ScorerIdentity
from pipeline.audio.scores.settings import ScorerSpec


@dataclass(frozen=True)
class Score:
    """What one scorer says of a clip; `value` is None where it has nothing to say."""

    scorer: ScorerIdentity
    value: float | None


def open_scorer(spec: ScorerSpec, identity: ScorerIdentity | None = None) -> Scorer:
    """Loads a scorer.

    Args:
        spec: Which.
        identity: The one that the driver found; another one here is an error.

    Raises:
        ScorerError: It is not on this machine, or is another one than the driver's.
    """
    found = identify(spec)
    if identity is not None and found != identity:
        raise ScorerError(
            f"score: {spec.name} on this node has other weights ({found.digest}) than on the "
            f"driver's ({identity.digest}): give every node the same checkpoint"
        )
    if spec.name in VERSIONS:
        from pipeline.audio.scores.built_in import built_in

        return built_in(found)
    place = place_of(spec)
    try:
        if spec.name == "clap":
            from pipeline.audio.scores.clap import ClapScorer

            return ClapScorer(found, place)
        from pipeline.audio.scores.aesthetics import AestheticsScorer

        return AestheticsScorer(found, place if place.is_file() else None)
    except (ImportError, OSError, KeyError, RuntimeError) as error:
        raise ScorerError(f"score: {spec.name} can't be loaded from {place}: {error}") from error


def open_embedder(text: str) -> Embedder:
    """The embedder that a text such as `clap=FOLDER` names, loaded.

    Raises:
        ScorerError: There is none of that name, or it is not on this machine.
    """
    name, _, source = text.partition("=")
    if name == "clap":
        from pipeline.audio.scores.clap import ClapScorer

        scorer = open_scorer(ScorerSpec(name, source or None))
        assert isinstance(scorer, ClapScorer)
        return scorer
    if text != "spectrum":
        raise ScorerError(f"set figures: no embedder is named {text!r}; known: clap, spectrum")
    from pipeline.audio.scores.spectrum import SpectrumEmbedder

    return SpectrumEmbedder(identify(ScorerSpec(name)))


class ScorerSet:
    """Some scorers, in the order in which they were asked for. The first one judges takes.

    Args:
        scorers: The scorers.
    """

    def __init__(self, scorers: Sequence[Scorer]) -> None:
        self._scorers = tuple(scorers)

    @classmethod
    def open(
        cls, specs: Sequence[ScorerSpec], identities: Sequence[ScorerIdentity] = ()
    ) -> ScorerSet:
        """Loads scorers, which must be those that the driver found, where that is told."""
        told: Sequence[ScorerIdentity | None] = identities or [None] * len(specs)
        return cls([open_scorer(*each) for each in zip(specs, told, strict=True)])

    @property
    def needs_melody(self) -> bool:
        """Whether any looks at the melody reference."""
        return any(scorer.needs.melody for scorer in self._scorers)

    def score(self, clip: ScoredClip) -> tuple[Score, ...]:
        """What each says of one clip."""
        return tuple(Score(each.identity, each.score([clip])[0]) for each in self._scorers)
