"""What `musicgen-batch doctor` looks at before a long run: this machine, the store, a cluster."""
