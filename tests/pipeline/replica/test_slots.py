"""Slots as asked for, as fit, and as are left after running out of memory."""

from typing import Any

import pytest
import torch

from musicgen.engine.engine import Engine
from musicgen.model import MusicGen
from musicgen.registry import AUTO_SLOTS_AT_MOST, AUTO_SLOTS_ON_CPU
from pipeline.config import ConfigError, JobConfig
from pipeline.config_file import load_config
from pipeline.replica import slots as module
from pipeline.replica.slots import (
    auto_slots,
    make_engine,
    smaller_engine,
)

NEEDED = {"manifest": "m.parquet", "output": "out", "model": "tiny"}


def config(slots: Any) -> JobConfig:
    return load_config(None, NEEDED | {"slots": slots})


class Gpu:
    """A model on a GPU with room for so many slots; asking for more fails as CUDA does."""

    def __init__(self, room: int) -> None:
        self.room, self.device, self.asked = room, torch.device("cuda"), []

    def slots_that_fit(self, reserve_bytes: int) -> int:
        assert reserve_bytes == module.RESERVE_BYTES
        return self.room

    def make_engine(self, slots: int) -> int:
        self.asked.append(slots)
        if slots > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return slots


@pytest.mark.parametrize(("given", "taken"), [("auto", "auto"), ("32", 32), (7, 7)])
def test_slots_are_a_number_or_auto(given: Any, taken: Any) -> None:
    assert config(given).engine.slots == taken


@pytest.mark.parametrize("given", ["0", 0, 1025, "many", 2.0, True])
def test_nonsense_slots_are_refused(given: Any) -> None:
    with pytest.raises(ConfigError, match="must be a whole number from 1 to 1024, or auto"):
        config(given)


@pytest.mark.parametrize(("room", "slots"), [(17, 17), (900, AUTO_SLOTS_AT_MOST), (-2, 1)])
def test_auto_takes_what_the_gpu_has_room_for(room: int, slots: int) -> None:
    assert auto_slots(Gpu(room)) == slots  # type: ignore[arg-type]


def test_auto_is_the_default() -> None:
    """And without a GPU it holds no more Ray tasks than 8 slots need."""
    given = load_config(None, NEEDED)
    assert given.engine.slots == "auto"
    few, many = (config(n).tasks_in_flight(on_gpu=True) for n in (8, 64))
    assert few < many == given.tasks_in_flight(on_gpu=True)
    assert given.tasks_in_flight(on_gpu=False) == few
    assert load_config(None, NEEDED | {"device": "cpu"}).tasks_in_flight(on_gpu=True) == few


def test_auto_on_a_cpu_is_a_fixed_number() -> None:
    engine = make_engine(MusicGen.get_pretrained("tiny", "cpu"), "auto")
    assert isinstance(engine, Engine)
    assert engine.n_rows == 2 * AUTO_SLOTS_ON_CPU


def test_slots_that_do_not_fit_are_halved_until_they_do() -> None:
    gpu = Gpu(room=5)
    assert make_engine(gpu, 32) == 4  # type: ignore[arg-type, comparison-overlap]
    assert gpu.asked == [32, 16, 8, 4]


def test_an_engine_that_ran_out_of_memory_shrinks_until_it_fits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    gpu, error = Gpu(room=3), torch.OutOfMemoryError("CUDA out of memory")
    assert smaller_engine(gpu, 32, error) == 2  # type: ignore[arg-type, comparison-overlap]
    assert gpu.asked == [8, 4, 2]


def test_a_model_that_does_not_fit_with_one_slot_says_so() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        make_engine(Gpu(room=0), 4)  # type: ignore[arg-type]
