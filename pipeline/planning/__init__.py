"""What a run has to do: rows to clips, manifest minus ledger, without a model."""
