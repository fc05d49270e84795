"""Where a job runs: a Ray cluster, and how it ends early."""
