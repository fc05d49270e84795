"""The table of known speeds: every released model is in it, more slots are never slower."""

import pytest

from musicgen.registry import FAMILY
from pipeline.planning.speeds import AUTO_SLOTS, Device, known_speed

DEVICES: tuple[Device, ...] = ("cpu", "cuda")


@pytest.mark.parametrize("device", DEVICES)
def test_every_released_model_has_a_speed_and_larger_ones_are_slower(device: Device) -> None:
    slots = AUTO_SLOTS[device]
    speeds = {name: known_speed(name, device, slots) for name in ("tiny", *FAMILY)}
    assert None not in speeds.values()
    order = [speeds[name] or 0.0 for name in ("tiny", "small", "medium", "large")]
    assert order == sorted(order, reverse=True)


def test_a_model_is_known_by_short_name_hub_id_and_folder() -> None:
    names = ("small", "facebook/musicgen-small", "/models/musicgen-small")
    assert {known_speed(name, "cpu", 8) for name in names} == {1.2}
    assert known_speed("somebody/else", "cpu", 8) is None


@pytest.mark.parametrize("device", DEVICES)
def test_more_slots_are_never_slower(device: Device) -> None:
    speeds = [
        known_speed("small", device, slots) or 0.0 for slots in (1, 2, 3, 5, 8, 20, 32, 64, 999)
    ]
    assert speeds == sorted(speeds)
    assert speeds[0] > 0
