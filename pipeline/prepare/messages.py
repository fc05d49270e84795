"""What the driver tells every actor of the prepare pool once, when it starts. Free of torch."""

from dataclasses import dataclass

from musicgen.checkpoints.describe import ModelInfo
from pipeline.planning.expand import PlanSpec


@dataclass(frozen=True)
class PrepareSettings:
    """What every actor of the prepare pool is told."""

    spec: PlanSpec
    info: ModelInfo
    repeats: dict[int, int]
    retry: bool
    tunes: bool = False  # whether a scorer wants to hear melodies
