"""In-flight batching: clips enter and leave a fixed set of rows while others go on."""
