"""What a replica does when memory runs out: it shrinks, tries again, and loses nothing."""

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from musicgen.codec.codec import CompressionModel
from musicgen.engine.engine import Engine
from musicgen.model import MusicGen
from tests.pipeline.replica.workers import ROWS, SEEDED, make


def test_out_of_memory_halves_the_slots_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Engine.step

    def too_big(engine: Engine) -> Any:
        if engine.n_rows == 8 and engine.n_steps == 5:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return step(engine)

    monkeypatch.setattr(Engine, "step", too_big)
    clips, letters, _ = make(tmp_path / "halved", SEEDED, slots=4)
    alone, _, _ = make(tmp_path / "two", SEEDED, slots=2)

    assert letters == {}
    assert {clip["engine_rows"] for clip in clips.values()} == {4}
    assert clips.keys() == {row["id"] for row in SEEDED}
    for name, clip in clips.items():
        assert clip["audio_sha256"] == alone[name]["audio_sha256"]


def test_the_old_caches_are_free_before_the_smaller_engine_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, make_engine = Engine.step, MusicGen.make_engine
    old: list[weakref.ref[torch.Tensor]] = []

    def too_big(engine: Engine) -> Any:
        keys = engine.state.caches[0].keys  # as a frame deep in a step holds them
        if engine.n_rows == 8 and engine.n_steps == 5:
            old.extend(weakref.ref(cache.keys) for cache in engine.state.caches)
            raise torch.OutOfMemoryError("CUDA out of memory") from RuntimeError(str(keys.shape))
        return step(engine)

    def make_one(model: MusicGen, slots: int) -> Engine:
        assert [keys() for keys in old] == [None] * len(old)
        return make_engine(model, slots)

    monkeypatch.setattr(Engine, "step", too_big)
    monkeypatch.setattr(MusicGen, "make_engine", make_one)
    clips, letters, _ = make(tmp_path, SEEDED, slots=4)

    assert old
    assert letters == {}
    assert clips.keys() == {row["id"] for row in SEEDED}


@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_codec_without_memory_is_tried_again_and_then_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    decode, asked = CompressionModel.decode, []

    def too_big(model: CompressionModel, codes: torch.Tensor, **given: Any) -> torch.Tensor:
        asked.append(given["piece_frames"])
        if len(asked) <= times:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return decode(model, codes, **given)

    monkeypatch.setattr(CompressionModel, "decode", too_big)
    clips, letters, _ = make(tmp_path, ROWS[:2], slots=1)

    assert asked[: times + 1] == [None, None, 200, None][: times + 1]
    assert len(clips) == (1 if times == 3 else 2)
    assert [letter["stage"] for letter in letters.values()] == ["encode"] * (times == 3)


def test_a_text_without_memory_is_encoded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_request, asked = MusicGen.make_request, []

    def too_big(model: MusicGen, clip: Any) -> Any:
        asked.append(clip)
        if len(asked) == 1:
            raise RuntimeError("CUDA error: out of memory")
        return make_request(model, clip)

    monkeypatch.setattr(MusicGen, "make_request", too_big)
    clips, letters, _ = make(tmp_path, ROWS[:2])

    assert (len(asked), len(clips), letters) == (3, 2, {})


def test_a_clip_that_does_not_fit_alone_fails_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Engine.step

    def too_long(engine: Engine) -> Any:
        if any(clip.progress.request.n_frames == 25 for clip in engine.scheduler.running):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return step(engine)

    monkeypatch.setattr(Engine, "step", too_long)
    long = {"id": "long", "prompt": "song", "duration_s": 0.5}
    clips, letters, _ = make(tmp_path, [SEEDED[0], long, *SEEDED[1:]], slots=1)

    assert clips.keys() == {row["id"] for row in SEEDED}
    letter = letters["long"]
    assert (letter["stage"], letter["error_class"]) == ("generate", "MemoryError")
    assert "alone in the engine (CUDA out of memory" in letter["message"]
    assert "shorten the clip" in letter["message"]
