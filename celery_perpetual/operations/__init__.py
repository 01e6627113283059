"""What an operator asks and does."""
