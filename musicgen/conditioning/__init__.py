"""What a clip is conditioned on: text, melody, style, and how they meet in a row."""
