"""The command line, `musicgen-batch`; `root` holds the commands that make music."""
