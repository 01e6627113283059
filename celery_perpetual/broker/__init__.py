"""The receiving side of the broker: messages as workers received them, and what was received and not acknowledged."""
