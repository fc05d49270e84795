"""Scores of clips: what scorers there are, what each needs, and how takes are chosen by them."""
