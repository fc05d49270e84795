"""The job: from a manifest of prompts to a dataset of music. Read `job.py` first."""
