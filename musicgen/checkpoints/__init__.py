"""Checkpoints on disk and on the hub: layouts, integrity, sub-models, loading, conversion."""
