"""The carrier of a clip's conditions, and what it refuses."""

import dataclasses

import pytest
import torch

from musicgen.attributes import (
    ConditioningAttributes,
    JointEmbedCondition,
    prepare_attributes,
)
from musicgen.checkpoints.describe import ModelInfo, describe

MELODY = describe("tiny")
TEXT = dataclasses.replace(MELODY, kind="text", chroma=None)


def prepare(
    descriptions: list, wavs: object = None, info: ModelInfo = MELODY
) -> list[ConditioningAttributes]:
    return prepare_attributes(descriptions, wavs, 32_000, info)  # type: ignore[arg-type]


def test_a_clip_carries_its_prompt_and_its_melody() -> None:
    wav = torch.randn(2, 700)
    clip, plain = prepare(["a", None], [wav, None])
    assert clip.description == clip["text"]["description"] == "a"
    assert torch.equal(clip.audio, wav)
    assert clip.audio_rate_hz == 32_000
    assert clip.attributes == {"text": ["description"], "wav": ["self_wav"], "joint_embed": []}
    assert (plain.description, plain.audio, plain.audio_rate_hz) == (None, None, 0)
    assert plain.wav["self_wav"].is_null  # there, so that double guidance finds it


def test_a_melody_of_one_sample_is_a_melody() -> None:
    """AudioCraft tells "none" by the length 1."""
    (clip,) = prepare(["a"], [torch.ones(1, 1)])
    assert torch.equal(clip.audio, torch.ones(1, 1))


def test_one_tensor_is_one_clip_or_a_batch() -> None:
    wav = torch.randn(2, 1, 50)
    assert torch.equal(prepare(["a", "b"], wav)[1].audio, wav[1])
    assert torch.equal(prepare(["a"], wav[0])[0].audio, wav[0])


def test_a_text_model_has_no_audio_condition() -> None:
    assert prepare(["a"], None, TEXT)[0].wav == {}
    assert prepare(["a"], [None], TEXT)[0].wav == {}
    with pytest.raises(ValueError, match="takes no melody; use a melody or style model"):
        prepare(["a"], [torch.ones(1, 9)], TEXT)


@pytest.mark.parametrize(
    ("descriptions", "wavs", "message"),
    [
        ("a prompt", None, "descriptions is a list"),
        ([], None, "descriptions is a list"),
        (["a", "b"], [torch.ones(1, 9)], "melody_wavs has 1 entries for 2 descriptions"),
        (["a"], torch.ones(9), r"melody_wavs is \[batch, channels, samples\], got \[9\]"),
        (["a"], [torch.ones(9)], r"melody_wavs\[0\] is audio .* got \[9\]"),
        (["a"], [torch.ones(1, 0)], "not empty"),
        (["a"], ["song.wav"], "got str"),
    ],
)
def test_what_does_not_fit_is_named(descriptions: list, wavs: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prepare(descriptions, wavs)


def test_joint_embeddings_are_carried() -> None:
    wav = torch.ones(1, 1, 9)
    joint = JointEmbedCondition(wav, ["a"], torch.tensor([9]), [32_000])
    clip = ConditioningAttributes(joint_embed={"clap": joint})
    assert clip["joint_embed"]["clap"] is joint
    assert clip.joint_embed_attributes == clip.attributes["joint_embed"] == ["clap"]
    assert (joint.path, joint.seek_time) == ([None], [None])


def test_only_the_three_kinds_are_known() -> None:
    with pytest.raises(KeyError):
        ConditioningAttributes()["video"]
