"""What a perpetual task is."""
