"""The clips that both sides make: durations log-uniform, prompts of a few words to a few dozen."""

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from musicgen.config import SamplingParams, n_frames

SAMPLING = SamplingParams(top_k=250, cfg_coef=3.0)
_SCENES = ("a slow blues", "dense drum and bass", "a folk song by the fire", "solo piano",
           "a string quartet", "bright synth pop", "an old radio waltz")  # fmt: skip
_COLOURS = ("with brushes and an upright bass", "over warm analogue pads", "with hand claps",
            "and a distant choir", "played late at night", "recorded in a wooden hall",
            "with a long fade")  # fmt: skip


@dataclass(frozen=True)
class Clip:
    """What one clip asks for."""

    prompt: str
    duration_s: float
    seed: int

    def frames(self, frame_rate_hz: int) -> int:
        """Token frames of its audio."""
        return n_frames(round(self.duration_s * 1_000_000), frame_rate_hz)


@dataclass(frozen=True)
class Workload:
    """Clips drawn with a fixed seed; `round` changes the prompts only, so that no side profits from
    having seen them."""

    n_clips: int
    shortest_s: float
    longest_s: float
    seed: int = 0

    def clips(self, round: int = 0) -> list[Clip]:
        """In order of arrival."""
        rng = random.Random(self.seed)
        spread = math.log(self.longest_s / self.shortest_s)
        return [
            Clip(
                _prompt(rng, f"{round}.{index}"),
                self.shortest_s * math.exp(rng.random() * spread),
                rng.randrange(2**63),
            )
            for index in range(self.n_clips)
        ]


def _prompt(rng: random.Random, number: str) -> str:
    colours = rng.sample(_COLOURS, rng.randrange(1, 5))
    return f"take {number}: {rng.choice(_SCENES)} {', '.join(colours)}"


def vocabulary() -> list[str]:
    """All words of the prompts, numbers too."""
    said = " ".join(("take . : ,", *_SCENES, *_COLOURS))
    numbers = [str(number) for number in range(100)]
    return sorted({*said.split(), *numbers})


def longest_first(clips: Iterable[Clip]) -> list[Clip]:
    """As who knows all of them would order them."""
    return sorted(clips, key=lambda clip: clip.duration_s, reverse=True)


def batches(clips: Sequence[Clip], size: int) -> Iterator[Sequence[Clip]]:
    """`size` at a time."""
    for start in range(0, len(clips), size):
        yield clips[start : start + size]


@dataclass
class Timed:
    """A workload that one side has made; only the audio that was asked for counts.

    Attributes:
        audio_s: Seconds of audio that were asked for.
        wall_s: From the first prompt to the last sample.
        decode_s: Part of that: codes to audio.
        n_steps: Decode steps.
    """

    audio_s: float
    wall_s: float
    decode_s: float
    n_steps: int

    @property
    def speed(self) -> float:
        """Audio-seconds per second."""
        return self.audio_s / self.wall_s

    @property
    def token_speed(self) -> float:
        """The same without the codec."""
        return self.audio_s / (self.wall_s - self.decode_s)

    def told(self) -> dict[str, Any]:
        """For the JSON file."""
        return {**vars(self), "speed": self.speed, "token_speed": self.token_speed}
