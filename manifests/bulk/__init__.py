"""Many rows at once: the same verdicts as row by row, column by column."""
