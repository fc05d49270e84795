"""Fixtures for all tests; each family of them has a file of its own."""

pytest_plugins = ["tests.s3"]
