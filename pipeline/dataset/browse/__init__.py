"""`musicgen-batch browse`: a page on this machine to search, hear, compare and rate an output."""
