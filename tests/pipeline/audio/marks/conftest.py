"""The fixtures of `pairs`."""

from tests.pipeline.audio.marks.pairs import no_pair, pair, with_pair

__all__ = ["no_pair", "pair", "with_pair"]
