"""The process that waits: one subscription, many waiters, and the stream of events."""
