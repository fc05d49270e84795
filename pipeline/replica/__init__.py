"""The GPU pool: clips become tokens, audio, files, and rows of a part."""
