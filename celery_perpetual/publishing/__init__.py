"""From committed records to messages in the broker."""
