"""The scorers that are always there: melody, key, tempo and voice, by our own measures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from musicgen.conditioning.tune import RATE_HZ, chroma_agreement, pitch_classes
from musicgen.tiny.measures import scale_share, shipped_voices, tempo_of
from musicgen.tiny.music import asked_by
from pipeline.audio.scores.protocol import Needs, ScoredClip, ScorerIdentity


@dataclass(frozen=True)
class BuiltInScorer:
    """A measure of a clip against its prompt or its melody.

    Attributes:
        identity: See `Scorer`.
        needs: See `Scorer`.
        measure: The score of one clip; None where nothing was asked of it.
    """

    identity: ScorerIdentity
    needs: Needs
    measure: Callable[[ScoredClip], float | None]

    def score(self, clips: Sequence[ScoredClip]) -> list[float | None]:
        """See `Scorer`."""
        with torch.inference_mode():
            return [self.measure(clip) for clip in clips]


def melody(clip: ScoredClip) -> float | None:
    """How far the clip's tune is that of its melody reference."""
    if clip.tune is None or not len(clip.tune):
        return None
    return chroma_agreement(pitch_classes(clip.mono(RATE_HZ)), clip.tune)


def key(clip: ScoredClip) -> float | None:
    """Share of the frames in the key of the prompt."""
    scale = asked_by(clip.prompt).scale
    return None if scale is None else scale_share(pitch_classes(clip.mono(RATE_HZ)), scale)


def tempo(clip: ScoredClip) -> float | None:
    """Whether the tempo is the prompt's."""
    asked = asked_by(clip.prompt).tempo
    return None if asked is None else float(tempo_of(clip.mono(RATE_HZ)) == asked)


def voice(clip: ScoredClip) -> float | None:
    """Whether the voice is the prompt's."""
    asked = asked_by(clip.prompt).voice
    return None if asked is None else float(shipped_voices()(clip.mono(RATE_HZ)) == asked)


MEASURES: dict[str, Callable[[ScoredClip], float | None]] = {
    "melody": melody,
    "key": key,
    "tempo": tempo,
    "voice": voice,
}


def built_in(identity: ScorerIdentity) -> BuiltInScorer:
    """The scorer of that name."""
    is_melody = identity.name == "melody"
    needs = Needs(RATE_HZ, prompt=not is_melody, melody=is_melody)
    return BuiltInScorer(identity, needs, MEASURES[identity.name])
