"""The learning-rate schedule."""

import math


def cosine(progress: float) -> float:
    """1 at the beginning, a fiftieth at the end."""
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress))
