"""From samples to a file: measures, limits, level, coding, tags."""
