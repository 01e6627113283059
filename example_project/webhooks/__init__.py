"""The outbox: each row is one message to one endpoint."""
