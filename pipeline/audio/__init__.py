"""From samples to a file: measures, limits, level, encoding, tags."""
