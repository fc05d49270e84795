"""Trains the bundled model from scratch on synthetic music. Not in the wheel."""
