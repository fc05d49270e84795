"""What a scorer is given, and what it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Embedding = NDArray[np.float64]  # [D]


class ScorerError(ValueError):
    """A scorer can't be used; the message says what is missing and the way out."""


@dataclass(frozen=True)
class ScorerIdentity:
    """Which scorer gave a score: equal identities give equal scores.

    Attributes:
        name: As in `score_<name>`.
        checkpoint: Its weights as people know them; `built in` without.
        digest: 32 hex digits over its weights, or over the version of what is built in.
    """

    name: str
    checkpoint: str
    digest: str


@dataclass(frozen=True)
class Needs:
    """What a scorer looks at beside the audio, and the rate at which it hears.

    Attributes:
        rate_hz: Samples per second of the mono audio that it takes.
        prompt: Whether a clip without a prompt has no score.
        melody: Whether a clip without a melody reference has none.
    """

    rate_hz: int
    prompt: bool = False
    melody: bool = False


@dataclass(frozen=True, eq=False)
class ScoredClip:
    """A clip as scorers see it: its audio file, decoded, and what it was made of.

    Attributes:
        wav: [C, N] samples of the file.
        rate_hz: Their rate.
        prompt: Text of the row.
        tune: Pitch classes of the melody reference (`musicgen.conditioning.tune`), repeated or cut
            to the length of the clip; None without one, or where it is out of reach.
    """

    wav: NDArray[np.float32]
    rate_hz: int
    prompt: str | None = None
    tune: NDArray[np.int64] | None = None
    _mono: dict[int, Tensor] = field(default_factory=dict, init=False, repr=False)

    def mono(self, rate_hz: int) -> Tensor:
        """The clip's channels mixed, at some rate: float32 [N]."""
        if rate_hz not in self._mono:
            import torch

            from musicgen.audio import resample

            mixed = torch.from_numpy(self.wav).double().mean(dim=0)
            self._mono[rate_hz] = resample(mixed, self.rate_hz, rate_hz).float()
        return self._mono[rate_hz]


class Scorer(Protocol):
    """Scores clips.

    A score depends on its clip alone, to the bit, not on the clips beside it in a batch: which take
    of a row is kept must not depend on chance.
    """

    @property
    def identity(self) -> ScorerIdentity:
        """Which scorer it is."""
        ...

    @property
    def needs(self) -> Needs:
        """What a clip must have."""
        ...

    def score(self, clips: Sequence[ScoredClip]) -> list[float | None]:
        """A score per clip, the higher the better; None where it has nothing to say of a clip."""
        ...


class Embedder(Protocol):
    """A scorer that also places clips in a space, for figures of whole sets."""

    @property
    def identity(self) -> ScorerIdentity:
        """Which scorer it is."""
        ...

    def embed(self, clip: ScoredClip) -> Embedding:
        """The place of a clip: float64 [D]."""
        ...
