"""The language model: transformer over delayed codebooks, guidance, sampling."""
