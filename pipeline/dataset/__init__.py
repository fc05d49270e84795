"""What makes an output a dataset for others: its card, its metadata, and publishing it."""
