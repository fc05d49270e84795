"""What a run says while it runs: timing, metrics, log lines, progress."""
