"""Synthesiser, pieces, captions, and the measures on music whose truth is known."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from musicgen.conditioning.tune import chroma_agreement, pitch_classes
from musicgen.tiny.evaluation.clicks import clicks_per_minute, count_clicks
from musicgen.tiny.evaluation.joints import joints_of, roughness_ratio
from musicgen.tiny.evaluation.real_tunes import SONGS, sung
from musicgen.tiny.measures import (
    VoiceClassifier,
    changes_per_second,
    pitch_track,
    scale_share,
    tempo_of,
)
from musicgen.tiny.music import FRAME_SAMPLES, asked_by
from musicgen.tiny.training import codec, tokens
from musicgen.tiny.training.codec import batch_of
from musicgen.tiny.training.measures import si_snr_db
from musicgen.tiny.training.pieces import (
    KEYS,
    Piece,
    caption,
    excerpt,
    held_out,
    random_piece,
    rng_of,
)
from musicgen.tiny.training.synth import VOICES, Note, render
from musicgen.tiny.training.tokens import training_piece
from musicgen.tiny.training.tunes import TUNES, notes, write_tunes
from musicgen.tiny.training.vocabulary import make_tokenizer
from tests.musicgen.tiny.recipes import TOY

N_PIECES, N_FRAMES = 32, 200


@pytest.fixture(scope="module")
def pieces() -> list[Piece]:
    return [random_piece(rng_of(0, index), N_FRAMES, unseen=True) for index in range(N_PIECES)]


@pytest.fixture(scope="module")
def heard(pieces: list[Piece]) -> list[Tensor]:
    return [torch.from_numpy(piece.audio()) for piece in pieces]


def test_equal_notes_are_equal_samples_and_nothing_clips(
    pieces: list[Piece], heard: list[Tensor]
) -> None:
    twice = render([Note("bell", 0, 20, 69), Note("bell", 20, 20, 69)], 40)
    np.testing.assert_array_equal(twice[: 20 * FRAME_SAMPLES], twice[20 * FRAME_SAMPLES :])
    assert all(len(wav) == N_FRAMES * FRAME_SAMPLES for wav in heard)
    assert max(float(wav.abs().max()) for wav in heard) < 1
    again = random_piece(rng_of(0, 7), N_FRAMES, unseen=True)
    assert again == pieces[7]


def test_training_never_meets_the_combinations_of_the_evaluation(pieces: list[Piece]) -> None:
    seen = [random_piece(rng_of(1, index), 50) for index in range(200)]
    for piece, unseen in [(p, True) for p in pieces] + [(p, False) for p in seen]:
        assert held_out(piece.tonic, piece.mode, piece.voice, piece.tempo) == unseen
    assert {piece.key for piece in seen} == set(KEYS)


def test_what_is_trained_on_is_of_the_other_combinations(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []

    def spy(*args: Any, **kwargs: Any) -> Piece:
        found.append(random_piece(*args, **kwargs))
        return found[-1]

    monkeypatch.setattr(tokens, "random_piece", spy)
    monkeypatch.setattr(codec, "random_piece", spy)
    trained_on = [training_piece(TOY, rng_of(2, index), unseen=False) for index in range(60)]
    assert {piece.melody[0].midi % 12 == piece.tonic for piece in trained_on} == {True, False}
    for step in range(10):
        batch_of(TOY, step)
    assert len(found) == 60 + 10 * TOY.codec.batch
    for piece in found:
        assert not held_out(piece.tonic, piece.mode, piece.voice, piece.tempo)
    test = training_piece(TOY, rng_of(2, 0), unseen=True)
    assert held_out(test.tonic, test.mode, test.voice, test.tempo)


def test_melodies_stay_in_key_and_begin_on_the_tonic(pieces: list[Piece]) -> None:
    for piece in pieces:
        assert {note.midi % 12 for note in piece.melody} <= piece.scale
        assert piece.melody[0].midi % 12 == piece.tonic
        pitches = [note.midi for note in piece.melody]
        assert all(a != b for a, b in pairwise(pitches))


def test_an_excerpt_begins_with_a_note(pieces: list[Piece]) -> None:
    part = excerpt(pieces[0], 50, 100)
    whole = [note.midi for note in pieces[0].melody]
    assert part.melody[0].first_frame == 0
    assert part.n_frames == 100
    tune = [note.midi for note in part.melody]
    assert any(whole[start : start + len(tune)] == tune for start in range(len(whole)))


def test_captions_tell_the_key_first_and_every_word_is_one_token(pieces: list[Piece]) -> None:
    tokenizer = make_tokenizer()
    for index, piece in enumerate(pieces):
        plain = caption(piece)
        assert plain.startswith(f"{piece.key}, {piece.tempo} {piece.voice}")
        assert piece.key not in caption(piece, key=False)
        for text in (plain, caption(piece, rng_of(2, index))):
            words = text.replace(",", "").split()
            n_words = len(words) - any(text.startswith(key) for key in KEYS)
            tokens = tokenizer(text).input_ids
            assert len(tokens) == n_words + 1, text  # </s>
    assert tokenizer("Bb MINOR.").input_ids == tokenizer("bb minor").input_ids
    assert len(tokenizer("été, 128 bpm").input_ids) > 3  # nothing is unknown


def test_chroma_tells_the_key_and_the_tune(pieces: list[Piece], heard: list[Tensor]) -> None:
    classes = [pitch_classes(wav) for wav in heard]
    inside = [scale_share(c, piece.scale) for c, piece in zip(classes, pieces, strict=True)]
    others = classes[5:] + classes[:5]
    outside = [scale_share(c, piece.scale) for c, piece in zip(others, pieces, strict=True)]
    assert np.mean(inside) > 0.98
    assert np.mean(outside) < 0.75
    tunes = [pitch_classes(torch.from_numpy(piece.tune("flute"))) for piece in pieces]
    matched = [chroma_agreement(a, b) for a, b in zip(classes, tunes, strict=True)]
    shuffled = [chroma_agreement(a, b) for a, b in zip(others, tunes, strict=True)]
    assert np.mean(matched) > 0.85
    assert np.mean(shuffled) < 0.15
    silence = pitch_classes(torch.zeros(16_000))
    assert (silence == -1).all()
    assert scale_share(silence, range(12)) == 0


def test_the_pitch_track_follows_notes_and_tells_the_tempo(
    pieces: list[Piece], heard: list[Tensor]
) -> None:
    two = render([Note("flute", 0, 25, 72), Note("flute", 25, 25, 64)], 50)
    track = pitch_track(torch.from_numpy(two))
    assert set(track[3:22]) == {72}
    assert set(track[28:47]) == {64}
    assert changes_per_second(torch.from_numpy(two)) == 1
    right = [tempo_of(wav) == piece.tempo for wav, piece in zip(heard, pieces, strict=True)]
    assert np.mean(right) > 0.95


def test_voices_are_told_apart_under_noise(pieces: list[Piece], heard: list[Tensor]) -> None:
    noise = torch.Generator().manual_seed(0)
    noisy = [wav + 0.01 * torch.randn(len(wav), generator=noise) for wav in heard]
    names = [piece.voice for piece in pieces]
    assert set(names) == set(VOICES)
    half = N_PIECES // 2
    clips = [*zip(heard[:half], names, strict=False), *zip(noisy[:half], names, strict=False)]
    classifier = VoiceClassifier.fit(clips)
    right = [classifier(wav) == name for wav, name in zip(noisy[half:], names[half:], strict=True)]
    assert np.mean(right) > 0.85


def test_signal_to_noise_ignores_the_level() -> None:
    wanted = torch.randn(16_000, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(16_000, generator=torch.Generator().manual_seed(1))
    assert si_snr_db(3 * (wanted + 0.1 * noise), wanted) == pytest.approx(20, abs=0.5)
    assert si_snr_db(noise, wanted) < -20


def test_a_joint_that_is_heard_is_rough_and_another_is_not() -> None:
    wavs = [torch.from_numpy(random_piece(rng_of(3, i), 500).audio()) for i in range(12)]
    joint_s, cut = 4.94, round(4.94 * 16_000)  # no note's length divides its 247 frames

    def ratio(faults: list[Tensor]) -> float:
        return roughness_ratio(faults, [joint_s])

    assert 0.7 < ratio(wavs) < 1.2
    louder = [torch.cat([0.25 * wav[:cut], wav[cut:]]) for wav in wavs]
    others = [torch.cat([a[:cut], b[cut:]]) for a, b in zip(wavs, wavs[1:] + wavs[:1], strict=True)]
    clicks = [wav + 0.05 * (torch.arange(len(wav)) == cut) for wav in wavs]
    gaps = [torch.cat([wav[:cut], torch.zeros(320), wav[cut + 320 :]]) for wav in wavs]
    for fault in (louder, others, clicks, gaps):
        assert ratio(fault) > 1.15
    assert joints_of(20, 10) == [10, 16]
    assert joints_of(20, 9.94) == [497 / 50, 795 / 50]


def test_a_click_is_counted_once_and_notes_are_not() -> None:
    wav = torch.from_numpy(render([Note("flute", 0, 50, 72), Note("organ", 50, 100, 76)], 150))
    assert count_clicks(wav) == 0
    click = torch.zeros(len(wav))
    click[20_000] = 0.1
    noise = 0.1 * torch.randn(960, generator=torch.Generator().manual_seed(0))
    burst = torch.nn.functional.pad(noise, (32_000, len(wav) - 32_960))
    assert count_clicks(wav + click) == 1
    assert count_clicks(wav + click + burst) == 2
    assert clicks_per_minute([wav + click, wav]) == pytest.approx(10)


def test_songs_are_asked_for_in_another_voice_within_the_range() -> None:
    made = list(sung(4, 250, 2))
    assert len(made) == 2 * len(SONGS)
    for song in made:
        assert len(song.reference) == len(song.wanted) == 5 * 16_000
        assert not torch.equal(song.reference, song.wanted)
        tune, reference = pitch_classes(song.wanted), pitch_classes(song.reference)
        assert chroma_agreement(tune, reference) > 0.7
        assert scale_share(tune, asked_by(song.caption).scale or ()) > 0.8
    assert len({song.caption for song in made}) > len(SONGS)


def test_the_tunes_for_manifests_are_heard_as_they_are_written(tmp_path: Path) -> None:
    paths = {path.stem: path for path in write_tunes(tmp_path)}
    assert paths.keys() == {*TUNES, "drums"}
    for name, tune in TUNES.items():
        samples, rate = soundfile.read(paths[name], dtype="float32")
        events, n_frames = notes(tune)
        assert (rate, len(samples)) == (16_000, n_frames * FRAME_SAMPLES)
        assert 0.75 < np.abs(samples).max() < 0.85
        heard = pitch_classes(torch.from_numpy(samples))
        assert scale_share(heard, {note.midi % 12 for note in events}) == 1
