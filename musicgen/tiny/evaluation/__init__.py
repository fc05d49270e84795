"""Evaluates the bundled model on held-out synthetic music. Not in the wheel."""
