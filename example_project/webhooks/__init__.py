"""The outbox: rows that say what has to be sent to whom."""
