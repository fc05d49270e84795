"""The CPU pool: rows become clips with their references at hand."""
