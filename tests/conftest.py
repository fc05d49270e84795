"""Fixtures for all tests; each family of them has a file of its own."""

import os

# Before torch is loaded: threads that wait for each other sleep instead of spinning, which on a
# machine with other work makes two threads ten times as slow as one.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

pytest_plugins = ["tests.s3", "tests.job_fixtures"]
