"""MusicGen: the model family and its batch engine, without Ray and without a job around it.

Importing this package imports nothing heavy; `musicgen.MusicGen` loads torch on first use.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from musicgen.model import MusicGen

__all__ = ["MusicGen"]


def __getattr__(name: str) -> object:
    if name == "MusicGen":
        from musicgen.model import MusicGen

        return MusicGen
    raise AttributeError(f"module 'musicgen' has no attribute {name!r}")
