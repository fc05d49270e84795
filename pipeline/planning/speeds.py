"""How fast the models are known to be, for plans before the first run.

Nothing here was measured on the machines of the job; whoever shows such a figure calls it assumed.
CPU: replicas of 2 threads in fp32 with 8 slots. `small` is from `make bench` and `tiny` from `make
demo`; the others are `small` by the numbers of their parameters. GPU: an H100 with 32 slots and
clips of 30 s, at 0.3 of what its memory bandwidth allows; no GPU has run this program yet.
"""

import math
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Literal

Device = Literal["cpu", "cuda"]

_SIZES: dict[str, tuple[float, float]] = {  # audio-seconds per second of one replica: CPU, GPU
    "small": (1.2, 120.0),
    "medium": (0.27, 37.0),
    "large": (0.15, 26.0),
}
_NAMES = {
    "melody": "medium",
    "style": "medium",
    "audiogen-medium": "medium",
    "melody-large": "large",
    "stereo-small": "small",
    "stereo-medium": "medium",
    "stereo-large": "large",
    "stereo-melody": "medium",
    "stereo-melody-large": "large",
}
_TINY = (6.4, 400.0)
# Share of that speed at other numbers of slots.
_BY_SLOTS: dict[Device, tuple[tuple[int, float], ...]] = {
    "cpu": ((1, 0.18), (2, 0.43), (4, 0.68), (8, 1.0), (16, 1.14)),
    "cuda": ((1, 0.19), (8, 0.71), (16, 0.88), (32, 1.0), (64, 1.07)),
}
AUTO_SLOTS: dict[Device, int] = {"cpu": 8, "cuda": 32}
STARTUP_S: dict[Device, float] = {"cpu": 30.0, "cuda": 60.0}  # until the first clip is admitted


def known_speed(model: str, device: Device, slots: int) -> float | None:
    """Audio-seconds per second of one replica; None for a model that the table lacks.

    Args:
        model: As the user names it: a short name, a hub id, or a folder called like one of them.
        device: Where replicas compute.
        slots: Clips in flight.
    """
    name = PurePosixPath(model).name.removeprefix("musicgen-")
    speeds = _TINY if name == "tiny" else _SIZES.get(_NAMES.get(name, name))
    if speeds is None:
        return None
    return speeds[0 if device == "cpu" else 1] * _share(device, slots)


def _share(device: Device, slots: int) -> float:
    """Interpolated over the logarithm of the slots."""
    points = _BY_SLOTS[device]
    if slots >= points[-1][0]:
        return points[-1][1]
    for (few, low), (many, high) in pairwise(points):
        if few <= slots <= many:
            return low + (high - low) * math.log(slots / few) / math.log(many / few)
    return points[0][1]
