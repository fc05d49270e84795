"""What a user does with the dataset: card, publishing, browsing."""
