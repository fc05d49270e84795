"""Makes the bundled model from nothing. Not part of the wheel."""
