"""`python -m pipeline.cli`."""

from pipeline.cli.root import main

main()
