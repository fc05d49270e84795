"""What can be observed of a run: timing, metrics, log lines, progress."""
