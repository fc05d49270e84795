"""Measures the bundled model. Not part of the wheel."""
