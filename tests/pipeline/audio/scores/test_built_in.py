"""The built-in scorers on synthesised music, whose truth is known."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from musicgen.audio import resample
from musicgen.conditioning.tune import RATE_HZ, pitch_classes
from musicgen.tiny.music import VOICE_NAMES, Asked, asked_by, scale_of
from musicgen.tiny.training.pieces import Piece, caption, random_piece, rng_of
from musicgen.tiny.training.synth import VOICES
from pipeline.audio.scores.protocol import ScoredClip
from pipeline.audio.scores.scoring import ScorerSet, open_scorer
from pipeline.audio.scores.settings import parse

N_FRAMES = 200  # 4 s


@pytest.fixture(scope="module")
def pieces() -> list[Piece]:
    return [random_piece(rng_of(7, index), N_FRAMES, unseen=True) for index in range(12)]


def clip_of(piece: Piece, prompt: str | None = None, tune: Piece | None = None) -> ScoredClip:
    wav = piece.audio()[None]
    told = None if tune is None else pitch_classes(torch.from_numpy(tune.tune("organ")))
    return ScoredClip(wav, RATE_HZ, prompt, told)


def mean(name: str, clips: list[ScoredClip]) -> float:
    scores = open_scorer(*parse(name)).score(clips)
    assert all(score is not None for score in scores)
    return float(np.mean([score for score in scores if score is not None]))


def test_melody_is_high_for_the_own_tune_and_low_for_another(pieces: list[Piece]) -> None:
    own = mean("melody", [clip_of(piece, tune=piece) for piece in pieces])
    other = mean("melody", [clip_of(a, tune=b) for a, b in pairwise(pieces)])
    assert own > 0.8
    assert other < 0.4


def test_key_is_high_for_the_own_key_and_low_for_a_far_one(pieces: list[Piece]) -> None:
    far = [replace(piece, tonic=(piece.tonic + 6) % 12) for piece in pieces]
    own = mean("key", [clip_of(piece, caption(piece)) for piece in pieces])
    other = mean("key", [clip_of(piece, caption(b)) for piece, b in zip(pieces, far, strict=True)])
    assert own > 0.9
    assert other < 0.6


def test_tempo_and_voice_are_told_apart(pieces: list[Piece]) -> None:
    said = [clip_of(piece, caption(piece)) for piece in pieces]
    tempos = {"slow": "fast", "fast": "slow"}
    wrong = [
        clip_of(piece, f"{tempos[piece.tempo]} {other} solo")
        for piece in pieces
        for other in [next(voice for voice in VOICES if voice != piece.voice)]
    ]
    for name in ("tempo", "voice"):
        assert mean(name, said) > 0.9
        assert mean(name, wrong) < 0.1


def test_nothing_is_said_where_nothing_was_asked(pieces: list[Piece]) -> None:
    scorers = ScorerSet([open_scorer(spec) for spec in parse("melody,key,tempo,voice")])
    for prompt in (None, "a song of the sea"):
        assert [each.value for each in scorers.score(clip_of(pieces[0], prompt))] == [None] * 4


def test_a_score_depends_on_its_clip_alone_whatever_its_rate_and_channels(
    pieces: list[Piece],
) -> None:
    clips = [clip_of(piece, caption(piece), piece) for piece in pieces[:4]]
    scorers = [open_scorer(spec) for spec in parse("melody,key,tempo,voice")]
    for scorer in scorers:
        together = scorer.score(clips)
        assert together == [scorer.score([clip])[0] for clip in clips]
        assert together[::-1] == scorer.score(clips[::-1])
    wav = resample(torch.from_numpy(clips[0].wav), RATE_HZ, 44_100).numpy()
    stereo = replace(clips[0], wav=np.concatenate([wav, wav]), rate_hz=44_100)
    for scorer in scorers:
        assert scorer.score([stereo])[0] == pytest.approx(scorer.score(clips[:1])[0], abs=0.07)


def test_a_silent_clip_has_no_tune_and_no_key() -> None:
    silence = ScoredClip(np.zeros((1, RATE_HZ), np.float32), RATE_HZ, "C major", np.zeros(8, int))
    scorers = ScorerSet([open_scorer(spec) for spec in parse("melody,key")])
    assert [each.value for each in scorers.score(silence)] == [0.0, 0.0]


@pytest.mark.parametrize(
    ("prompt", "asked"),
    [
        ("C# minor, slow flute melody", Asked(scale_of(1, "minor"), "slow", "flute")),
        ("a lively tune in b-flat major", Asked(scale_of(10, "major"), "fast", None)),
        ("Db major and C# major", Asked(scale_of(1, "major"))),  # one key under two names
        ("C major, then D major", Asked()),
        ("fast and slow bells", Asked()),  # no word of the captions names one voice
        ("bell, calm", Asked(None, "slow", "bell")),
        ("a minor key", Asked(scale_of(9, "minor"))),  # A minor: case is not looked at
        ("sea major", Asked()),
        ("", Asked()),
        (None, Asked()),
    ],
)
def test_what_a_prompt_asks_for(prompt: str | None, asked: Asked) -> None:
    assert asked_by(prompt) == asked


def test_every_caption_says_its_piece(pieces: list[Piece]) -> None:
    for piece in pieces:
        assert asked_by(caption(piece)) == Asked(piece.scale, piece.tempo, piece.voice)
    assert tuple(VOICES) == VOICE_NAMES
