"""Modules that the models are built of, and how they are built without values."""
