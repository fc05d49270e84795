"""The conditions of a clip as AudioCraft's API passes them: text and audio by name."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from musicgen.checkpoints.describe import ModelInfo
from musicgen.config import ArgumentError, WrongModelError

TEXT, AUDIO = "description", "self_wav"  # AudioCraft's names of the two conditions

Wavs = Tensor | Sequence[Tensor | None]


class WavCondition(NamedTuple):
    """The audio that conditions one clip.

    Attributes:
        wav: [1, C, N]; a single zero sample if there is no audio.
        length: Number of valid samples, [1]; 0 if there is no audio.
        sample_rate: In Hz, one entry.
        path: The file that it was read from, one entry.
        seek_time: Where in the file it begins, in seconds, one entry.
    """

    wav: Tensor
    length: Tensor
    sample_rate: list[int]
    path: list[str | None] = [None]  # noqa: RUF012 - a field of a tuple, as in AudioCraft
    seek_time: list[float | None] = [None]  # noqa: RUF012

    @property
    def is_null(self) -> bool:
        """Whether there is no audio."""
        return int(self.length) == 0


class JointEmbedCondition(NamedTuple):
    """Audio and text for a joint embedding (CLAP), which no released MusicGen uses."""

    wav: Tensor
    text: list[str | None]
    length: Tensor
    sample_rate: list[int]
    path: list[str | None] = [None]  # noqa: RUF012
    seek_time: list[float | None] = [None]  # noqa: RUF012


@dataclass
class ConditioningAttributes:
    """Everything that one clip is conditioned on, by kind and name."""

    text: dict[str, str | None] = field(default_factory=dict)
    wav: dict[str, WavCondition] = field(default_factory=dict)
    joint_embed: dict[str, JointEmbedCondition] = field(default_factory=dict)

    def __getitem__(self, kind: str) -> dict[str, Any]:
        """The conditions of one kind: `text`, `wav` or `joint_embed`."""
        if kind not in ("text", "wav", "joint_embed"):
            raise KeyError(kind)
        found: dict[str, Any] = getattr(self, kind)
        return found

    @property
    def text_attributes(self) -> list[str]:
        """Names of the texts."""
        return list(self.text)

    @property
    def wav_attributes(self) -> list[str]:
        """Names of the recordings."""
        return list(self.wav)

    @property
    def joint_embed_attributes(self) -> list[str]:
        """Names of the joint embeddings."""
        return list(self.joint_embed)

    @property
    def attributes(self) -> dict[str, list[str]]:
        """Names by kind."""
        return {
            "text": self.text_attributes,
            "wav": self.wav_attributes,
            "joint_embed": self.joint_embed_attributes,
        }

    @property
    def description(self) -> str | None:
        """The prompt; "" is none."""
        return self.text.get(TEXT) or None

    @property
    def audio(self) -> Tensor | None:
        """The melody's or style's audio [C, N], or None."""
        condition = self.wav.get(AUDIO)
        if condition is None or condition.is_null:
            return None
        return condition.wav[0, :, : int(condition.length)]

    @property
    def audio_rate_hz(self) -> int:
        """Sample rate of `audio`; 0 where there is none."""
        return 0 if self.audio is None else self.wav[AUDIO].sample_rate[0]


def nullify_wav(sample_rate_hz: int) -> WavCondition:
    """The condition of a clip without audio."""
    return WavCondition(torch.zeros(1, 1, 1), torch.zeros(1, dtype=torch.long), [sample_rate_hz])


def prepare_attributes(
    descriptions: Sequence[str | None],
    wavs: Wavs | None,
    sample_rate_hz: int,
    info: ModelInfo,
    name: str = "melody_wavs",
) -> list[ConditioningAttributes]:
    """The conditions of a batch of clips, one entry per clip.

    Args:
        descriptions: Prompts; None and "" are none.
        wavs: Melodies or styles: [B, C, N], [C, N] for one clip, a list of [C, N] and None, or
            None.
        sample_rate_hz: Sample rate of all `wavs`.
        info: The model that the clips are for.
        name: The name of `wavs` in error messages.

    Raises:
        ArgumentError: The lengths differ, or an entry has another shape.
        WrongModelError: The model takes no audio.
        ValueError: `wavs` is a tensor of another shape.
    """
    if isinstance(descriptions, str) or not len(descriptions):
        raise ArgumentError("descriptions is a list with one entry per clip, and not empty")
    audio = [None] * len(descriptions) if wavs is None else _listed(wavs, name)
    if len(audio) != len(descriptions):
        raise ArgumentError(f"{name} has {len(audio)} entries for {len(descriptions)} descriptions")
    clips = []
    for row, (text, wav) in enumerate(zip(descriptions, audio, strict=True)):
        clip = ConditioningAttributes(text={TEXT: text})
        if info.kind != "text":  # always there, so that double guidance finds it
            clip.wav[AUDIO] = (
                nullify_wav(sample_rate_hz)
                if wav is None
                else _condition(wav, sample_rate_hz, f"{name}[{row}]")
            )
        elif wav is not None:
            raise WrongModelError(
                f"model {info.name!r} takes no melody; use a melody or style model (e.g. facebook/"
                f"musicgen-melody) or leave {name} out"
            )
        clips.append(clip)
    return clips


def _listed(wavs: Wavs, name: str) -> list[Tensor | None]:
    if not isinstance(wavs, Tensor):
        return list(wavs)
    batch = wavs[None] if wavs.ndim == 2 else wavs
    if batch.ndim != 3:
        raise ValueError(f"{name} is [batch, channels, samples], got {list(wavs.shape)}")
    return list(batch)


def _condition(wav: Tensor, sample_rate_hz: int, where: str) -> WavCondition:
    if not isinstance(wav, Tensor) or wav.ndim != 2 or 0 in wav.shape:
        shape = list(wav.shape) if isinstance(wav, Tensor) else type(wav).__name__
        raise ArgumentError(f"{where} is audio [channels, samples], not empty; got {shape}")
    return WavCondition(wav[None], torch.tensor([wav.shape[-1]]), [sample_rate_hz])
