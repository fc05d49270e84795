"""MusicGen and AudioGen: the models and their batch engine, without Ray and without a job.

Importing this package imports nothing heavy: the two classes load torch on first use, and
`describe` reads a checkpoint's files without it.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from musicgen.audiogen import AudioGen
    from musicgen.checkpoints.describe import describe
    from musicgen.config import ModelSource, SamplingParams
    from musicgen.model import MusicGen

__all__ = ["AudioGen", "ModelSource", "MusicGen", "SamplingParams", "describe"]

_MODULES = {
    "AudioGen": "musicgen.audiogen",
    "ModelSource": "musicgen.config",
    "MusicGen": "musicgen.model",
    "SamplingParams": "musicgen.config",
    "describe": "musicgen.checkpoints.describe",
}


def __getattr__(name: str) -> object:
    """Import the module of a public name when that is first used."""
    if name not in _MODULES:
        raise AttributeError(f"module 'musicgen' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_MODULES[name]), name)
